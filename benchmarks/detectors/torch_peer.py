"""The peers: detectors of `torchvision.models.detection` with random weights."""

import os

import torch
import torchvision

BUILDERS = {
    "fcos": "fcos_resnet50_fpn",
    "retinanet": "retinanet_resnet50_fpn",
    "faster-rcnn": "fasterrcnn_resnet50_fpn",
}
"""torchvision's builders, by the name of our detector of the same structure."""


def torchvision_detector(workload, name: str):
    """Returns prediction, training step and versions; images are not resized."""
    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    model = getattr(torchvision.models.detection, BUILDERS[name])(
        weights=None,
        weights_backbone=None,
        num_classes=workload.num_classes + (name == "faster-rcnn"),  # class 0 is background
        min_size=min(workload.height, workload.width),
        max_size=max(workload.height, workload.width),
    )
    optimizer = torch.optim.SGD(model.parameters(), 1e-5)
    images = list(torch.tensor(workload.images()).permute(0, 3, 1, 2).contiguous())
    arrays = {name: torch.tensor(array) for name, array in workload.targets().items()}
    labels = arrays["labels"].long() + (name == "faster-rcnn")
    targets = [
        {"boxes": boxes, "labels": numbers}
        for boxes, numbers in zip(arrays["boxes"], labels, strict=True)
    ]

    def predict():
        model.eval()
        with torch.no_grad():
            return [value.numpy() for found in model(images) for value in found.values()]

    def step():
        model.train()
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()

    version = f"PyTorch {torch.__version__}, torchvision {torchvision.__version__}"
    return predict, step, version
