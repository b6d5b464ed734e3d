"""ATSS + DyHead on Swin-T, 24 epochs at many sizes, as microsoft/DynamicHead trained it.

Command:
    keras-dyhead train --recipe dyhead_swint_atss_fpn_2x_ms --out runs/swin_tiny
    --images train2017 --annotations instances_train2017.json
    --val-images val2017 --val-annotations instances_val2017.json
    --backbone-weights swin_tiny_patch4_window7_224.pth

    The weights are those of ImageNet-1K that Microsoft published with Swin.

Cost:
    24 passes (2x) over the 118k images of COCO. In its usual canvas of 896 x 1152 px, an image
    takes 234 thousand million multiply-adds and a training step on it about three times as many:
    2.0e18 for all.
    Its authors give a command for 8 GPUs; their hours are not known.

Expected:
    49.8 AP on COCO val2017 by the published training (README of microsoft/DynamicHead). Nobody has
    measured this recipe.

Differs from the published training:
    - 24 passes over the 118k images are 1.4 % fewer steps than its 90 000 of 32 images.
    - Biases and the tables of relative positions do not decay. There they get detectron2's default
      of 1e-4, a five-hundredth of the decay of all else.
    - Images without boxes take part. detectron2 leaves them out.
    - A batch is padded to the nearest of six canvases, into which the largest size fits, not to
      its largest image: images of the smaller sizes have more padding around them.
    - DyHead's sampling offsets begin at zero, there at random. Other initial values above the
      backbone were not compared.

Source: `configs/dyhead_swint_atss_fpn_2x_ms.yaml` and `train_net.py` of microsoft/DynamicHead;
defaults of detectron2.
"""

SETTINGS = {
    "detector": "dyhead_swint_atss_fpn_2x_ms",
    "canvases": (
        *((896, 1152), (896, 1280), (896, 1408)),
        *((1152, 896), (1280, 896), (1408, 896)),
    ),
    "augmentation": {
        "horizontal_flip": 0.5,
        "sizes": (640, 672, 704, 736, 768, 800),
        "max_side": 1333,
    },
    "epochs": 24,
    "batch_size": 32,
    "optimizer": "adamw",
    "learning_rate": 1e-4,
    "base_batch_size": 32,
    "schedule": "step",
    "milestones": (60 / 90, 80 / 90),
    "warmup_steps": 1000,
    "weight_decay": 0.05,
    "no_decay": (r"(bias|beta)$", "relative_position_bias_table"),
    "clip_norm": None,
}
