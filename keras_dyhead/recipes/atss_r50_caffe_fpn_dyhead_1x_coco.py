"""ATSS + DyHead on the caffe ResNet-50, 12 epochs, OpenMMLab's reproduction of Microsoft's."""

from keras_dyhead.recipes import schedules

NAME = "atss_r50-caffe_fpn_dyhead_1x_coco"
COMMAND = schedules.command(NAME, "resnet50_msra-5891d200.pth")
WEIGHTS = schedules.MSRA_WEIGHTS
COST = schedules.cost(221e9, epochs=12)
HARDWARE = "4 T4 GPUs, 4 images and 5.4 GB on each. The training time is not known."
AP = 42.5
AP_SOURCE = "README of mmdetection's `configs/dyhead`"
SOURCE = f"`configs/dyhead/{NAME}.py` and {schedules.ON_OPENMMLAB}"
DIFFERENCES = (schedules.EMPTY_IMAGES, schedules.PADDING, schedules.OFFSETS)
SETTINGS = {
    "detector": NAME,
    "canvases": schedules.canvases(896, 1152, 1280, 1408),
    "augmentation": schedules.FLIP,
    "epochs": 12,
    **schedules.SGD,
    **schedules.OPENMMLAB_STEPS,
}
