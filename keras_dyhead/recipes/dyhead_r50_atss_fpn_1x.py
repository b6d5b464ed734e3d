"""ATSS + DyHead on ResNet-50, 12 epochs, as microsoft/DynamicHead trained it."""

from keras_dyhead.recipes import schedules

NAME = "dyhead_r50_atss_fpn_1x"
COMMAND = schedules.command(NAME, "resnet50_msra-5891d200.pth")
WEIGHTS = schedules.MSRA_WEIGHTS
COST = schedules.cost(221e9, epochs=12)
HARDWARE = schedules.EIGHT_GPUS
AP = 42.4
AP_SOURCE = "README of microsoft/DynamicHead"
SOURCE = f"`configs/{NAME}.yaml` and {schedules.ON_MICROSOFT}"
DIFFERENCES = (schedules.FEWER_STEPS, schedules.EMPTY_IMAGES, schedules.PADDING, schedules.OFFSETS)
SETTINGS = {
    "detector": NAME,
    "canvases": schedules.canvases(896, 1152, 1280, 1408),
    "augmentation": schedules.FLIP,
    "epochs": 12,
    **schedules.SGD,
    **schedules.MICROSOFT_STEPS,
}
