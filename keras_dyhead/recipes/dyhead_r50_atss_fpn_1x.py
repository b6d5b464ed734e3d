"""ATSS + DyHead on ResNet-50, 12 epochs, as microsoft/DynamicHead trained it.

Command:
    keras-dyhead train --recipe dyhead_r50_atss_fpn_1x --out runs/atss
    --images train2017 --annotations instances_train2017.json
    --val-images val2017 --val-annotations instances_val2017.json
    --backbone-weights resnet50_msra-5891d200.pth

    The weights are OpenMMLab's conversion of detectron2's `MSRA/R-50.pkl`, in the names of
    torchvision (https://download.openmmlab.com/pretrain/third_party/resnet50_msra-5891d200.pth).

Cost:
    12 passes (1x) over the 118k images of COCO. In its usual canvas of 896 x 1152 px, an image
    takes 221 thousand million multiply-adds and a training step on it about three times as many:
    9.4e17 for all.
    Its authors give a command for 8 GPUs; their hours are not known.

Expected:
    42.4 AP on COCO val2017 by the published training (README of microsoft/DynamicHead). Nobody has
    measured this recipe.

Differs from the published training:
    - 12 passes over the 118k images are 1.4 % fewer steps than its 90 000.
    - Images without boxes take part. detectron2 leaves them out.
    - A batch is padded to the nearest of six canvases, not to its largest image.
    - DyHead's sampling offsets begin at zero, there at random. Other initial values above the
      backbone were not compared.

Source: `configs/dyhead_r50_atss_fpn_1x.yaml` and `train_net.py` of microsoft/DynamicHead;
defaults of detectron2.
"""

SETTINGS = {
    "detector": "dyhead_r50_atss_fpn_1x",
    "canvases": (
        *((896, 1152), (896, 1280), (896, 1408)),
        *((1152, 896), (1280, 896), (1408, 896)),
    ),
    "augmentation": {"horizontal_flip": 0.5, "scale": None},
    "epochs": 12,
    "batch_size": 16,
    "optimizer": "sgd",
    "momentum": 0.9,
    "learning_rate": 0.01,
    "base_batch_size": 16,
    "schedule": "step",
    "milestones": (60 / 90, 80 / 90),
    "warmup_steps": 1000,
    "weight_decay": 1e-4,
    "clip_norm": None,
}
