"""Records of the published detectors with DyHead."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from keras_dyhead import backbones
from keras_dyhead.checkpoints.coco_classes import COCO_CLASSES
from keras_dyhead.detectors import (
    DETECTORS,
    AnchorGenerator,
    DetectionDecoder,
    DetectionPreprocessor,
    FCOSAssigner,
    MaxIoUAssigner,
    RegionPooler,
)
from keras_dyhead.layers import DyHeadNeck, FeaturePyramid

MICROSOFT = "microsoft"
OPENMMLAB = "openmmlab"


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """The architecture of a published detector.

    Args:
        origin: Source of the tensor names: `"microsoft"` (microsoft/DynamicHead on detectron2) or
            `"openmmlab"` (mmdetection).
        detector: One of `keras_dyhead.detectors.DETECTORS`.
        backbone: Name of a class in `keras_dyhead.backbones`.
        backbone_arguments: Arguments of the backbone.
        neck: Arguments of the `DyHeadNeck`.
        pyramid: Arguments of the `FeaturePyramid`.
        arguments: Other arguments of the detector.
        preprocessing: Arguments of `DetectionPreprocessor`.
        ap: Published box AP on COCO val2017 in percent, or `None`.
        source: URL of the weights, or `None` if none are published.
    """

    origin: str
    detector: str
    backbone: str
    backbone_arguments: Mapping[str, Any]
    neck: Mapping[str, Any]
    pyramid: Mapping[str, Any]
    arguments: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    ap: float | None = None
    source: str | None = None

    def build(self, image_shape=(None, None, 3), dtype=None, class_names=COCO_CLASSES, **changes):
        """Builds the detector with random weights.

        Args:
            image_shape: Shape of a preprocessed image. Defaults to `(None, None, 3)`.
            dtype: Dtype policy of all layers. Defaults to the global policy.
            class_names: Names of the classes, or `None`. Defaults to the 80 of COCO.
            **changes: Arguments that replace those of the published detector. `backbone`, `neck`,
                `pyramid` and `preprocessor` are objects.
        """
        if "backbone" not in changes:
            changes["backbone"] = getattr(backbones, self.backbone)(
                **self.backbone_arguments, image_shape=image_shape, dtype=dtype
            )
        if "preprocessor" not in changes:
            changes["preprocessor"] = DetectionPreprocessor(**self.preprocessing)
        if "neck" not in changes:
            changes["neck"] = DyHeadNeck(**self.neck, dtype=dtype, name="dyhead")
        if "pyramid" not in changes:
            channels = {"channels": getattr(changes["neck"], "channels", 256)}
            changes["pyramid"] = FeaturePyramid(
                **channels | self.pyramid, dtype=dtype, name="feature_pyramid"
            )
        return DETECTORS[self.detector](
            class_names=class_names,
            image_shape=image_shape,
            dtype=dtype,
            **{"num_classes": len(class_names or ()), **self.arguments, **changes},
        )


_RGB = {"channel_order": "RGB", "mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
_BGR = {"channel_order": "BGR", "mean": (103.53, 116.28, 123.675), "std": (1.0, 1.0, 1.0)}
_BGR_FCOS = _BGR | {"mean": (102.9801, 115.9465, 122.7717)}
# detectron2 and mmdet's "pillow" backend resize with Pillow, mmdet by default with OpenCV.
_SIZE_800 = {"min_side": 800, "max_side": 1333, "pad_multiple": 128, "resizing": "pillow"}
_SIZE_1200 = {"min_side": 1200, "max_side": 2000, "pad_multiple": 128, "resizing": "pillow"}
_SIZE_800_OPENCV = {"min_side": 800, "max_side": 1333, "pad_multiple": 32, "resizing": "opencv"}

_RESNET_50_CAFFE = {"depth": 50, "style": "caffe", "batch_norm": "frozen"}
_SWIN_TINY = {
    "embed_dim": 96,
    "depths": (2, 2, 6, 2),
    "num_heads": (3, 6, 12, 24),
    "window_size": 7,
    "drop_path_rate": 0.2,
}
_SWIN_LARGE = {
    "embed_dim": 192,
    "depths": (2, 2, 18, 2),
    "num_heads": (6, 12, 24, 48),
    "window_size": 12,
    "drop_path_rate": 0.2,
}

_SQUARES_IN_CORNERS = AnchorGenerator(8.0, octaves=1, ratios=(1.0,), offset=0.0)
_SQUARES_IN_MIDDLES = AnchorGenerator(8.0, octaves=1, ratios=(1.0,), offset=0.5)

_MICROSOFT_NECK = {"alignment": "published", "start": "released"}
_OPENMMLAB_NECK = _MICROSOFT_NECK | {"use_bias": False}
_MICROSOFT_RESNET = {
    "origin": MICROSOFT,
    "backbone": "ResNetBackbone",
    "backbone_arguments": _RESNET_50_CAFFE,
    "neck": _MICROSOFT_NECK,
}
_OPENMMLAB_RESNET = {
    "origin": OPENMMLAB,
    "backbone": "ResNetBackbone",
    "backbone_arguments": {
        "depth": 50,
        "style": "pytorch",
        "batch_norm": "affine",
        "frozen_stages": 1,
    },
    "neck": _OPENMMLAB_NECK,
}
_RELU_BEFORE_EXTRA = {"relu_before_extra_convs": True}  # Microsoft and FCOS
_FROM_P2 = {"min_level": 2, "max_level": 6, "extra_levels": "pool"}

_MICROSOFT_ATSS = {
    "head_kernel_size": 1,
    "anchors": _SQUARES_IN_MIDDLES,
    "loss_normalizer": "batch",
    "decoder": DetectionDecoder(iou_threshold=0.6, clip="after_nms", rank_by="confidence"),
}
_OPENMMLAB_ATSS = {  # as in their reproduction of Microsoft's
    "head_kernel_size": 1,
    "anchors": _SQUARES_IN_MIDDLES,
    "loss_normalizer": "image",
    "decoder": DetectionDecoder(iou_threshold=0.6, clip="before_nms", rank_by="class"),
}

_MICROSOFT_URL = "https://xiyang.blob.core.windows.net/public/"
_OPENMMLAB_URL = "https://download.openmmlab.com/mmdetection/v2.0/dyhead/"

PUBLISHED = {
    "dyhead_r50_retina_fpn_1x": PublishedModel(
        **_MICROSOFT_RESNET,
        detector="retinanet",
        pyramid=_RELU_BEFORE_EXTRA,
        arguments={"loss_normalizer": "running", "decoder": DetectionDecoder(clip="after_nms")},
        preprocessing=_SIZE_800 | _BGR,
        ap=39.9,
        source=_MICROSOFT_URL + "dyhead_r50_retina_fpn_1x.pth",
    ),
    "dyhead_r50_atss_fpn_1x": PublishedModel(
        **_MICROSOFT_RESNET,
        detector="atss",
        pyramid=_RELU_BEFORE_EXTRA,
        arguments=_MICROSOFT_ATSS,
        preprocessing=_SIZE_800 | _BGR,
        ap=42.4,
        source=_MICROSOFT_URL + "dyhead_r50_atss_fpn_1x.pth",
    ),
    "dyhead_r50_rcnn_fpn_1x": PublishedModel(
        **_MICROSOFT_RESNET,
        detector="faster-rcnn",
        pyramid=_FROM_P2,
        arguments={},
        preprocessing=_SIZE_800 | _BGR | {"pad_multiple": 64},
        ap=40.3,
        source=_MICROSOFT_URL + "dyhead_r50_rcnn_fpn_1x.pth",
    ),
    "dyhead_swint_atss_fpn_2x_ms": PublishedModel(
        origin=MICROSOFT,
        detector="atss",
        backbone="SwinBackbone",
        backbone_arguments=_SWIN_TINY,
        neck=_MICROSOFT_NECK,
        pyramid=_RELU_BEFORE_EXTRA,
        arguments=_MICROSOFT_ATSS,
        preprocessing=_SIZE_800 | _RGB,
        ap=49.8,
        source=_MICROSOFT_URL + "dyhead_swint_atss_fpn_2x_ms.pth",
    ),
    "atss_r50_fpn_dyhead_1x_coco": PublishedModel(
        **_OPENMMLAB_RESNET,
        detector="atss",
        pyramid={},
        arguments=_OPENMMLAB_ATSS | {"head_kernel_size": 3, "anchors": _SQUARES_IN_CORNERS},
        preprocessing=_SIZE_800_OPENCV | _RGB,
        ap=43.3,
        source=_OPENMMLAB_URL + "atss_r50_fpn_dyhead_4x4_1x_coco/"
        "atss_r50_fpn_dyhead_4x4_1x_coco_20211219_023314-eaa620c6.pth",
    ),
    "atss_r50-caffe_fpn_dyhead_1x_coco": PublishedModel(
        origin=OPENMMLAB,
        detector="atss",
        backbone="ResNetBackbone",
        backbone_arguments=_RESNET_50_CAFFE | {"frozen_stages": 1},
        neck=_OPENMMLAB_NECK,
        pyramid={},
        arguments=_OPENMMLAB_ATSS,
        preprocessing=_SIZE_800 | _BGR,
        ap=42.5,
        source=_OPENMMLAB_URL + "atss_r50_fpn_dyhead_for_reproduction_1x_coco/"
        "atss_r50_fpn_dyhead_for_reproduction_4x4_1x_coco_20220107_213939-162888e6.pth",
    ),
    "atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco": PublishedModel(
        origin=OPENMMLAB,
        detector="atss",
        backbone="SwinBackbone",
        backbone_arguments=_SWIN_LARGE,
        neck=_OPENMMLAB_NECK,
        pyramid={},
        arguments=_OPENMMLAB_ATSS,
        preprocessing=_SIZE_1200 | _RGB,
        ap=56.2,
        source=_OPENMMLAB_URL + "atss_swin-l-p4-w12_fpn_dyhead_mstrain_2x_coco/"
        "atss_swin-l-p4-w12_fpn_dyhead_mstrain_2x_coco_20220509_100315-bc5b6516.pth",
    ),
}
"""The seven DyHead detectors with published weights, by their original config names."""

COMPOSED = {
    "retinanet_r50_fpn_1x_coco+dyhead": PublishedModel(
        **_OPENMMLAB_RESNET,
        detector="retinanet",
        pyramid={"extra_levels": "on_input"},
        arguments={
            "anchors": AnchorGenerator(ratios_first=True),
            "assigner": MaxIoUAssigner(reassign=True),
        },
        preprocessing=_SIZE_800_OPENCV | _RGB,
    ),
    "faster-rcnn_r50_fpn_1x_coco+dyhead": PublishedModel(
        **_OPENMMLAB_RESNET,
        detector="faster-rcnn",
        pyramid=_FROM_P2,
        arguments={
            "assigner": MaxIoUAssigner(0.7, 0.3, reassign=True, low_quality_iou=0.3),
            "pooler": RegionPooler(epsilon=1e-6 / 4),
        },
        preprocessing=_SIZE_800_OPENCV | _RGB,
    ),
    "reppoints-moment_r50_fpn_1x_coco+dyhead": PublishedModel(
        **_OPENMMLAB_RESNET,
        detector="reppoints",
        pyramid={"extra_levels": "on_input"},
        arguments={"head_layers": 3, "head_group_norm": False},
        preprocessing=_SIZE_800_OPENCV | _RGB,
    ),
    "fcos_r50-caffe_fpn_gn-head_1x_coco+dyhead": PublishedModel(
        origin=OPENMMLAB,
        detector="fcos",
        backbone="ResNetBackbone",
        backbone_arguments=_RESNET_50_CAFFE | {"frozen_stages": 1},
        neck=_OPENMMLAB_NECK,
        pyramid=_RELU_BEFORE_EXTRA,
        arguments={
            "head_layers": 4,
            "centerness_branch": "class",
            "distance_unit": "pixel",
            "assigner": FCOSAssigner(center_radius=None),
            "box_loss": "iou",
        },
        preprocessing=_SIZE_800_OPENCV | _BGR_FCOS,
    ),
    "atss_x101-64x4d-dcnv2_fpn_dyhead": dataclasses.replace(
        PUBLISHED["atss_r50_fpn_dyhead_1x_coco"],
        backbone_arguments=_OPENMMLAB_RESNET["backbone_arguments"]
        | {"depth": 101, "groups": 64, "width_per_group": 4, "deformable_stages": (3, 4, 5)},
        ap=None,
        source=None,
    ),
}
"""mmdetection's configs with `neck=[FPN, DyHead]`, or with the backbone of the paper's best system.
No weights are published, but you can load your own."""
