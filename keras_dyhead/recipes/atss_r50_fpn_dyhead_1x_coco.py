"""ATSS + DyHead on ResNet-50, 12 epochs, OpenMMLab's simple setting."""

from keras_dyhead.recipes import schedules

NAME = "atss_r50_fpn_dyhead_1x_coco"
COMMAND = schedules.command(NAME, "resnet50-0676ba61.pth")
WEIGHTS = "torchvision's `ResNet50_Weights.IMAGENET1K_V1`"
COST = schedules.cost(194e9, epochs=12)
HARDWARE = "4 T4 GPUs, 4 images and 4.9 GB on each. The training time is not known."
AP = 43.3
AP_SOURCE = "README of mmdetection's `configs/dyhead`"
SOURCE = f"`configs/dyhead/{NAME}.py` and {schedules.ON_OPENMMLAB}"
DIFFERENCES = (
    schedules.EMPTY_IMAGES,
    schedules.PADDING,
    "Initial values above the backbone were not compared.",
)
SETTINGS = {
    "detector": NAME,
    "canvases": schedules.canvases(800, 1088, 1216, 1344),
    "augmentation": schedules.FLIP,
    "epochs": 12,
    **schedules.SGD,
    **schedules.OPENMMLAB_STEPS,
}
