"""ATSS + DyHead on the caffe ResNet-50, 12 epochs, OpenMMLab's reproduction of Microsoft's.

Command:
    keras-dyhead train --recipe atss_r50_caffe_fpn_dyhead_1x_coco --out runs/atss_r50_caffe
    --images train2017 --annotations instances_train2017.json
    --val-images val2017 --val-annotations instances_val2017.json
    --backbone-weights resnet50_msra-5891d200.pth

    (https://download.openmmlab.com/pretrain/third_party/resnet50_msra-5891d200.pth)

Cost:
    12 passes (1x) over the 118k images of COCO. In its usual canvas of 896 x 1152 px, an image
    takes 221 thousand million multiply-adds and a training step on it about three times as many:
    9.4e17 for all.
    The published training took 4 T4 GPUs, 4 images and 5.4 GB on each; its hours are not known.

Expected:
    42.5 AP on COCO val2017 by the published training (README of mmdetection's `configs/dyhead`).
    Nobody has measured this recipe.

Differs from the published training:
    - Images without boxes take part. mmdetection leaves them out.
    - A batch is padded to the nearest of six canvases, not to its largest image.
    - DyHead's sampling offsets begin at zero, there at random. Other initial values above the
      backbone were not compared.

Source: `configs/dyhead/atss_r50-caffe_fpn_dyhead_1x_coco.py` of mmdetection;
its `schedule_1x.py`.
"""

SETTINGS = {
    "detector": "atss_r50-caffe_fpn_dyhead_1x_coco",
    "canvases": (
        *((896, 1152), (896, 1280), (896, 1408)),
        *((1152, 896), (1280, 896), (1408, 896)),
    ),
    "augmentation": {"horizontal_flip": 0.5, "scale": None},
    "epochs": 12,
    "batch_size": 16,
    "optimizer": "sgd",
    "momentum": 0.9,
    "learning_rate": 0.01,
    "base_batch_size": 16,
    "schedule": "step",
    "milestones": (8 / 12, 11 / 12),
    "warmup_steps": 500,
    "weight_decay": 1e-4,
    "clip_norm": None,
}
