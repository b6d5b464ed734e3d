"""ATSS + DyHead on Swin-L, 24 epochs at many sizes, as OpenMMLab trained it."""

from keras_dyhead.recipes import schedules

NAME = "atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco"
COMMAND = schedules.command(NAME, "swin_large_patch4_window12_384_22k.pth")
WEIGHTS = "the ImageNet-22K weights that Microsoft published with Swin"
COST = schedules.cost(1850e9, epochs=24)
HARDWARE = "The GPUs and the training time are not known."
AP = 56.2
AP_SOURCE = "`configs/dyhead` of mmdetection"
SOURCE = f"`configs/dyhead/{NAME}.py` and {schedules.ON_OPENMMLAB}"
DIFFERENCES = (
    "The number of images per step is not stated. The configuration has 2 per GPU. This recipe "
    "uses 16, for 8 GPUs, which mmdetection's learning rates are meant for.",
    schedules.EMPTY_IMAGES,
    schedules.MORE_PADDING,
    schedules.OFFSETS,
)
SETTINGS = {
    "detector": NAME,
    "canvases": schedules.canvases(1280, 1664, 1920, 2048),
    "augmentation": {"horizontal_flip": 0.5, "sizes": tuple(range(480, 1201)), "max_side": 2000},
    "epochs": 24,
    "batch_size": 16,
    "optimizer": "adamw",
    "learning_rate": 5e-5,
    "base_batch_size": 16,
    "weight_decay": 0.05,
    "no_decay": (r"(gamma|beta)$", "relative_position_bias_table"),
    "clip_norm": None,
    **schedules.OPENMMLAB_STEPS,
}
