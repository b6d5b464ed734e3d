"""ATSS + DyHead on ResNeXt-101-64x4d-DCN, 24 epochs: the system of the paper's 54.0 AP."""

from keras_dyhead.recipes import schedules

NAME = "atss_x101-64x4d-dcnv2_fpn_dyhead"
COMMAND = schedules.command(NAME, "resnext101_64x4d-173b62eb.pth")
WEIGHTS = (
    "torchvision's `ResNeXt101_64X4D_Weights.IMAGENET1K_V1`; any ResNeXt-101-64x4d in the names of "
    "torchvision, timm, mmdetection or detectron2 will do. They bring the stored statistics of the "
    "normalizations, without which this backbone cannot be trained."
)
COST = schedules.cost(418e9, epochs=24)
HARDWARE = "With which GPUs its authors trained, and how long, is not known."
AP = 54.0
AP_SOURCE = "abstract of the paper"
SOURCE = (
    'Dai et al., "Dynamic Head: Unifying Object Detection Heads with Attentions", CVPR 2021, and '
    "`configs/` of microsoft/DynamicHead"
)
DIFFERENCES = (
    "No configuration of it was released. What is known is the backbone, DyHead and ATSS. The rest "
    "is put together from released trainings: the model of mmdetection's R50, in which only the "
    "backbone changes, Microsoft's SGD for ResNets, and the 2x at many sizes of its Swin-T.",
    "The sizes of the images behind the 54.0 AP are not known; evaluation here is at 800 px.",
    schedules.MORE_PADDING,
    "DyHead's alignment is the published one, as in all released weights; `alignment=paper` is the "
    "one that the paper describes.",
)
SETTINGS = {
    "detector": NAME,
    "canvases": schedules.canvases(800, 1088, 1216, 1344),
    "augmentation": schedules.MANY_SIZES,
    "epochs": 24,
    **schedules.SGD,
    **schedules.MICROSOFT_STEPS,
}
