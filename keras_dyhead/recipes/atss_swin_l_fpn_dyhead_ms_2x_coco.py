"""ATSS + DyHead on Swin-L, 24 epochs at many sizes, as OpenMMLab trained it.

Command:
    keras-dyhead train --recipe atss_swin_l_fpn_dyhead_ms_2x_coco --out runs/swin_large
    --images train2017 --annotations instances_train2017.json
    --val-images val2017 --val-annotations instances_val2017.json
    --backbone-weights swin_large_patch4_window12_384_22k.pth

    The weights are those of ImageNet-22K that Microsoft published with Swin.

Cost:
    24 passes (2x) over the 118k images of COCO. In its usual canvas of 1280 x 1664 px, an image
    takes 1850 thousand million multiply-adds and a training step on it about three times as many:
    1.6e19 for all.
    With which GPUs it was trained, and how long, is not known.

Expected:
    56.2 AP on COCO val2017 by the published training (`configs/dyhead` of mmdetection). Nobody has
    measured this recipe.

Differs from the published training:
    - How many images a step had is not stated. The configuration gives 2 to each GPU; 16, for 8
      of them, is what mmdetection's learning rates are meant for.
    - Images without boxes take part. mmdetection leaves them out.
    - A batch is padded to the nearest of six canvases, into which the largest size fits, not to
      its largest image: images of the smaller sizes have more padding around them.
    - DyHead's sampling offsets begin at zero, there at random. Other initial values above the
      backbone were not compared.

Source: `configs/dyhead/atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco.py` of mmdetection;
its `schedule_1x.py`.
"""

SETTINGS = {
    "detector": "atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco",
    "canvases": (
        *((1280, 1664), (1280, 1920), (1280, 2048)),
        *((1664, 1280), (1920, 1280), (2048, 1280)),
    ),
    "augmentation": {"horizontal_flip": 0.5, "sizes": tuple(range(480, 1201)), "max_side": 2000},
    "epochs": 24,
    "batch_size": 16,
    "optimizer": "adamw",
    "learning_rate": 5e-5,
    "base_batch_size": 16,
    "schedule": "step",
    "milestones": (8 / 12, 11 / 12),
    "warmup_steps": 500,
    "weight_decay": 0.05,
    "no_decay": (r"(gamma|beta)$", "relative_position_bias_table"),
    "clip_norm": None,
}
