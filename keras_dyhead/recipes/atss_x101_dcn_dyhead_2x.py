"""ATSS + DyHead on ResNeXt-101-64x4d-DCN: the system of the paper's 54.0 AP.

Command:
    keras-dyhead train --recipe atss_x101_dcn_dyhead_2x --out runs/x101
    --images train2017 --annotations instances_train2017.json
    --val-images val2017 --val-annotations instances_val2017.json
    --backbone-weights resnext101_64x4d-173b62eb.pth

    The weights are torchvision's `ResNeXt101_64X4D_Weights.IMAGENET1K_V1`; any ResNeXt-101-64x4d
    in the names of torchvision, timm, mmdetection or detectron2 will do. They bring the stored
    statistics of the normalisations, without which this backbone cannot be trained.

Cost:
    24 passes (2x) over the 118k images of COCO. An image of 1024 px takes 561 thousand million
    multiply-adds, a training step on it about three times as many: 4.8e18 for all.

Expected:
    54.0 AP on COCO (abstract of the paper) by the published training. Nobody has measured this
    recipe, and it has to stay behind that figure as long as it lacks what follows.

Not yet as published:
    - Images keep one size: they are fitted into a square of 1024 px, where the published training
      draws a size for each image.
    - The optimizer is AdamW with a cosine schedule. The released code takes SGD with momentum for
      ResNets and lowers the learning rate in two steps; for its 2x multi-scale training of Swin-T
      it takes AdamW with a learning rate of 1e-4 and a weight decay of 0.05 at 32 images a step,
      from which the values here are scaled to 16.
    - A step sees the images of one device. Where 16 of this size do not fit, lower
      `--batch-size`, and `--learning-rate` in proportion.

Source: Dai et al., "Dynamic Head: Unifying Object Detection Heads with Attentions", CVPR 2021.
"""

SETTINGS = {
    "detector": "atss",
    "backbone": {
        "depth": 101,
        "groups": 64,
        "width_per_group": 4,
        "deformable_stages": (3, 4, 5),
        "batch_norm": "affine",
        "frozen_stages": 1,
    },
    "num_blocks": 6,
    "channels": 256,
    "head_convs": 0,
    "max_level": 7,
    "anchor_scale": 8.0,
    "image_size": 1024,
    "epochs": 24,
    "batch_size": 16,
    "learning_rate": 5e-5,
    "weight_decay": 0.05,
}
