"""ATSS + DyHead on ResNeXt-101-64x4d-DCN, 24 epochs: the system of the paper's 54.0 AP.

Command:
    keras-dyhead train --recipe atss_x101_dcn_dyhead_2x --out runs/x101
    --images train2017 --annotations instances_train2017.json
    --val-images val2017 --val-annotations instances_val2017.json
    --backbone-weights resnext101_64x4d-173b62eb.pth

    The weights are torchvision's `ResNeXt101_64X4D_Weights.IMAGENET1K_V1`; any ResNeXt-101-64x4d
    in the names of torchvision, timm, mmdetection or detectron2 will do. They bring the stored
    statistics of the normalisations, without which this backbone cannot be trained.

Cost:
    24 passes (2x) over the 118k images of COCO. In its usual canvas of 800 x 1088 px, an image
    takes 418 thousand million multiply-adds and a training step on it about three times as many:
    3.6e18 for all.

Expected:
    54.0 AP on COCO (abstract of the paper) by its authors' training. Nobody has measured this
    recipe.

Differs from the published training:
    - No configuration of it was released. What is known is the backbone, DyHead and ATSS. The rest
      is put together from the released trainings: the model of mmdetection's R50 (in which only
      the backbone changes), Microsoft's SGD for ResNets, and the 2x at many sizes of its Swin-T.
    - The sizes of the images behind the 54.0 AP are not known; evaluation here is at 800 px.
    - A batch is padded to the nearest of six canvases, into which the largest size fits.
    - DyHead's alignment is the published one, as in all released weights; `alignment=paper` is the
      one that the paper describes.

Source: Dai et al., "Dynamic Head: Unifying Object Detection Heads with Attentions", CVPR 2021;
`configs/` of microsoft/DynamicHead.
"""

SETTINGS = {
    "detector": "atss_x101-64x4d-dcnv2_fpn_dyhead",
    "canvases": (
        *((800, 1088), (800, 1216), (800, 1344)),
        *((1088, 800), (1216, 800), (1344, 800)),
    ),
    "augmentation": {
        "horizontal_flip": 0.5,
        "sizes": (640, 672, 704, 736, 768, 800),
        "max_side": 1333,
    },
    "epochs": 24,
    "batch_size": 16,
    "optimizer": "sgd",
    "momentum": 0.9,
    "learning_rate": 0.01,
    "base_batch_size": 16,
    "schedule": "step",
    "milestones": (60 / 90, 80 / 90),
    "warmup_steps": 1000,
    "weight_decay": 1e-4,
    "clip_norm": None,
}
