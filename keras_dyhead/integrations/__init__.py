"""Adapters that put DyHead into the detectors of KerasCV and KerasHub.

Import the one you need: `keras_dyhead.integrations.keras_hub`, or
`keras_dyhead.integrations.keras_cv` (an extra: `pip install keras-dyhead[kerascv]`).
"""

# DyHead's arguments, which every adapter takes, passes to its `DyHeadNeck` and saves.
NECK_ARGUMENTS = (
    "num_blocks",
    "channels",
    "alignment",
    "use_spatial_attention",
    "use_scale_attention",
    "use_task_attention",
    "use_bias",
    "output_gain",
)
