"""ATSS + DyHead on ResNeXt-101-64x4d-DCN, 24 epochs: the system of the paper's 54.0 AP."""

from keras_dyhead.recipes import schedules

NAME = "atss_x101-64x4d-dcnv2_fpn_dyhead"
COMMAND = schedules.command(NAME, "resnext101_64x4d-173b62eb.pth")
WEIGHTS = (
    "torchvision's `ResNeXt101_64X4D_Weights.IMAGENET1K_V1`, or any ResNeXt-101-64x4d with the "
    "names of torchvision, timm, mmdetection or detectron2. They include the batch normalization "
    "statistics, which training this backbone requires."
)
COST = schedules.cost(418e9, epochs=24)
HARDWARE = "The GPUs and the training time of the authors are not known."
AP = 54.0
AP_SOURCE = "abstract of the paper"
SOURCE = (
    'Dai et al., "Dynamic Head: Unifying Object Detection Heads with Attentions", CVPR 2021, and '
    "`configs/` of microsoft/DynamicHead"
)
DIFFERENCES = (
    "Its configuration was not released. Only the backbone, DyHead and ATSS are known. The rest is "
    "combined from released configurations: mmdetection's R50 model with another backbone, "
    "Microsoft's SGD for ResNets, and the multi-scale 2x schedule of its Swin-T.",
    "The image sizes behind the 54.0 AP are not known. This recipe evaluates at 800 px.",
    schedules.MORE_PADDING,
    "DyHead's alignment is the published one, as in all released weights. `alignment=paper` is the "
    "one in the paper.",
)
SETTINGS = {
    "detector": NAME,
    "canvases": schedules.canvases(800, 1088, 1216, 1344),
    "augmentation": schedules.MANY_SIZES,
    "epochs": 24,
    **schedules.SGD,
    **schedules.MICROSOFT_STEPS,
}
