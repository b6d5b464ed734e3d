"""ATSS + DyHead on Swin-T, 24 epochs at many sizes, as microsoft/DynamicHead trained it."""

from keras_dyhead.recipes import schedules

NAME = "dyhead_swint_atss_fpn_2x_ms"
COMMAND = schedules.command(NAME, "swin_tiny_patch4_window7_224.pth")
WEIGHTS = "the ImageNet-1K weights that Microsoft published with Swin"
COST = schedules.cost(234e9, epochs=24)
HARDWARE = schedules.EIGHT_GPUS
AP = 49.8
AP_SOURCE = "README of microsoft/DynamicHead"
SOURCE = f"`configs/{NAME}.yaml` and {schedules.ON_MICROSOFT}"
DIFFERENCES = (
    "24 epochs of the 118k images are 1.4 % fewer steps than the published 90,000 of 32 images.",
    "Biases and relative position tables do not decay. In the published training run, they have "
    "detectron2's default of 1e-4, a five-hundredth of the decay of all other weights.",
    schedules.EMPTY_IMAGES,
    schedules.MORE_PADDING,
    schedules.OFFSETS,
)
SETTINGS = {
    "detector": NAME,
    "canvases": schedules.canvases(896, 1152, 1280, 1408),
    "augmentation": schedules.MANY_SIZES,
    "epochs": 24,
    "batch_size": 32,
    "optimizer": "adamw",
    "learning_rate": 1e-4,
    "base_batch_size": 32,
    "weight_decay": 0.05,
    "no_decay": (r"(bias|beta)$", "relative_position_bias_table"),
    "clip_norm": None,
    **schedules.MICROSOFT_STEPS,
}
