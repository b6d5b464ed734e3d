"""The detector of a training: its settings, and the model that follows from them."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import keras_hub
import numpy as np

from keras_dyhead.backbones import BACKBONES, ResNetBackbone, SwinBackbone
from keras_dyhead.checkpoints import (
    COMPOSED,
    PUBLISHED,
    PublishedModel,
    load_backbone_weights,
)
from keras_dyhead.coco import CocoAnnotations
from keras_dyhead.detectors import (
    ATSS,
    DETECTORS,
    FCOS,
    AnchorGenerator,
    DetectionPreprocessor,
    Detector,
    FasterRCNN,
    ProposalSelector,
    RandomSampler,
    RegionPooler,
    RepPoints,
    RetinaNet,
)
from keras_dyhead.layers import DyHeadNeck, FeaturePyramid
from keras_dyhead.training.optimizer import check

# Arguments of the `ResNetBackbone` of KerasHub that is called "small".
_SMALL = {
    "input_conv_filters": [16],
    "input_conv_kernel_sizes": [3],
    "stackwise_num_filters": [64, 64, 96, 128],
    "stackwise_num_blocks": [1, 1, 1, 1],
    "stackwise_num_strides": [1, 2, 2, 2],
    "block_type": "basic_block_vd",
}

HEAD_LAYERS = {"atss": 0, "faster-rcnn": 2, "fcos": 0, "reppoints": 0, "retinanet": 1}
"""Layers between DyHead and the predictions of each detector, if none are asked for: convolutions,
or the dense layers of Faster R-CNN's second stage."""

# Sides of the smallest anchors, in those of the smallest objects. ATSS draws its positives from the
# nine nearest anchors: larger ones give it as many.
_ANCHOR_SIZES = {"atss": 2.0, "faster-rcnn": 1.0, "retinanet": 1.0}

_CLASSES = {"ResNetBackbone": ResNetBackbone, "SwinBackbone": SwinBackbone}
# Settings that are arguments of `DyHeadNeck`.
_NECK = (
    *("num_blocks", "channels", "alignment"),
    *("use_spatial_attention", "use_scale_attention", "use_task_attention"),
)

# What a detector of this package has where its settings say nothing.
_DEFAULTS = {
    "backbone": "small",
    "num_blocks": 1,
    "channels": 64,
    "alignment": "paper",
    "max_level": 7,
    "anchor_octaves": 3,
    "anchor_ratios": (0.5, 1.0, 2.0),
}


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """Which detector is trained.

    Args:
        detector: One of `keras_dyhead.detectors.DETECTORS`, or the name of a published model
            (`PUBLISHED` and `COMPOSED` of `keras_dyhead.checkpoints`): that very model, for other
            classes. Defaults to `"atss"`.
        backbone: `"small"` or one of `keras_dyhead.backbones.BACKBONES`, with random weights; or
            the name or path of a KerasHub preset with a feature pyramid, such as
            `"resnet_50_imagenet"`; or arguments of a class of `keras_dyhead.backbones`, which
            `"class"` names if it is not `ResNetBackbone`. Defaults to `None`: `"small"`, or as
            published.
        backbone_weights: PyTorch checkpoint for a backbone given by arguments or published, see
            `load_backbone_weights`. Defaults to `None`, random weights.
        num_blocks: DyHead blocks; 0 trains the detector without DyHead. Defaults to `None`: 1, or
            as published.
        channels: Channels of pyramid, DyHead and heads, a multiple of 16. Defaults to `None`: 64,
            or as published.
        alignment: `"paper"` or `"published"`, how offsets act on the coarser level, see
            `DyHeadNeck`. Defaults to `None`: `"paper"`, or as published.
        use_spatial_attention: As in `DyHeadNeck`, like the next two. Defaults to `True`.
        use_scale_attention: Defaults to `True`.
        use_task_attention: Defaults to `True`.
        head_layers: Layers between DyHead and the predictions. Defaults to `None`: as in
            `HEAD_LAYERS`. This and what follows is fixed in a published model.
        max_level: Coarsest pyramid level; its stride is `2**max_level`. Defaults to `None`: 7.
        anchor_scale: Side of the smallest anchor in units of the finest stride, 8 px. Defaults to
            `None`: such that it is about as large as the smallest tenth of the training boxes
            (RetinaNet, Faster R-CNN), or twice that (ATSS); FCOS and RepPoints have no anchors.
        anchor_octaves: Anchor sizes per level of RetinaNet and Faster R-CNN; ATSS has one. Defaults
            to `None`: 3.
        anchor_ratios: Heights divided by widths of their anchors; those of ATSS are square.
            Defaults to `None`: `(0.5, 1.0, 2.0)`.
        dtype: Policy of all layers, such as `"mixed_float16"`, with which losses are scaled, or
            `"mixed_bfloat16"`. Defaults to `"float32"`.

    Example:

    >>> defaults = ModelSettings("fcos", num_blocks=2).model_defaults()
    >>> defaults["backbone"], "num_blocks" in defaults
    ('small', False)
    """

    detector: str = "atss"
    backbone: str | Mapping[str, Any] | None = None
    backbone_weights: str | os.PathLike | None = None
    num_blocks: int | None = None
    channels: int | None = None
    alignment: str | None = None
    use_spatial_attention: bool = True
    use_scale_attention: bool = True
    use_task_attention: bool = True
    head_layers: int | None = None
    max_level: int | None = None
    anchor_scale: float | None = None
    anchor_octaves: int | None = None
    anchor_ratios: tuple[float, ...] | None = None
    dtype: str = "float32"

    def __post_init__(self):
        known = self.detector in DETECTORS or self.published is not None
        check(self, "detector", known, f"one of {list(DETECTORS)} or a published model")
        if self.anchor_ratios is not None:
            object.__setattr__(self, "anchor_ratios", tuple(self.anchor_ratios))
        check(self, "num_blocks", (self.num_blocks or 0) >= 0, "at least 0")
        channels = 64 if self.channels is None else self.channels
        check(self, "channels", channels >= 16 and channels % 16 == 0, "a multiple of 16")
        if self.published is not None:
            fixed = ("head_layers", "max_level", "anchor_scale", "anchor_octaves", "anchor_ratios")
            given = {name: getattr(self, name) for name in fixed if getattr(self, name) is not None}
            if given:
                raise ValueError(
                    f"Of the published model {self.detector!r}, {list(given)} cannot be changed. "
                    f"Received: {given}"
                )

    @property
    def published(self) -> PublishedModel | None:
        """The record of the published model, if `detector` names one."""
        return (PUBLISHED | COMPOSED).get(self.detector)

    def model_defaults(self) -> dict[str, Any]:
        """Returns what the fields that are `None` stand for, except `anchor_scale`."""
        record = self.published
        if record is None:
            defaults = _DEFAULTS | {"head_layers": HEAD_LAYERS[self.detector]}
        else:
            defaults = {
                "backbone": {"class": record.backbone, **record.backbone_arguments},
                "num_blocks": 6,
                "channels": 256,
                "alignment": "published",
            }
        return {name: value for name, value in defaults.items() if getattr(self, name) is None}


def fitting_anchor_scale(
    detector: str, annotations: CocoAnnotations, preprocessor: DetectionPreprocessor
) -> float | None:
    """Returns the `anchor_scale` that fits the boxes of a data set, `None` without anchors.

    Args:
        detector: One of `keras_dyhead.detectors.DETECTORS`.
        annotations: The checked training annotations.
        preprocessor: Which resizes the images.
    """
    if detector not in _ANCHOR_SIZES:
        return None
    sides = [np.zeros(0)]
    for image in annotations.images:
        resized = preprocessor.resized_size(image.height, image.width)
        factor = max(resized) / max(image.height, image.width)
        width, height = (image.boxes[:, 2:] - image.boxes[:, :2]).T
        sides.append(np.sqrt(width * height) * factor)
    small = float(np.quantile(np.concatenate(sides), 0.1))
    return round(_ANCHOR_SIZES[detector] * min(4.0, max(1.0, small / 8)), 2)


def build_model(
    settings: ModelSettings, class_names: Sequence[str], preprocessor: DetectionPreprocessor
) -> Detector:
    """Builds the detector of a training, not compiled.

    Args:
        settings: Resolved settings.
        class_names: Names of the classes, which the model keeps.
        preprocessor: The preprocessor of the data, which becomes the model's.

    Raises:
        ValueError: If there is no such backbone.
    """
    shape = (*(preprocessor.image_size or (None, None)), 3)
    arguments = {
        "backbone": build_backbone(settings, shape),
        "class_names": class_names,
        "neck": _build_neck(settings),
        "pyramid": _build_pyramid(settings),
        "image_shape": shape,
        "preprocessor": preprocessor,
        "dtype": settings.dtype,
    }
    if settings.published is not None:
        return settings.published.build(**arguments)
    own = {"num_classes": len(class_names), "head_layers": settings.head_layers}
    return _BUILDERS[settings.detector](settings, arguments | own)


def _build_neck(settings):
    if settings.num_blocks == 0:
        return None
    given = {} if settings.published is None else settings.published.neck
    given = {**given, **{name: getattr(settings, name) for name in _NECK}}
    return DyHeadNeck(**given, dtype=settings.dtype, name="dyhead")


def _build_pyramid(settings):
    if settings.published is not None:
        given = settings.published.pyramid
    elif settings.detector == "faster-rcnn":
        given = {"max_level": settings.max_level, "extra_levels": "pool"}
    else:
        given = {"max_level": settings.max_level}
    return FeaturePyramid(
        **{**given, "channels": settings.channels}, dtype=settings.dtype, name="feature_pyramid"
    )


def _build_atss(settings, arguments):
    anchors = AnchorGenerator(settings.anchor_scale, octaves=1, ratios=(1.0,), offset=0.5)
    return ATSS(**arguments, anchors=anchors)


def _build_fcos(settings, arguments):
    return FCOS(**arguments)


def _build_faster_rcnn(settings, arguments):
    # About a quarter of what is published: levels' pixels, regions, their pixels, units.
    return FasterRCNN(
        **arguments,
        anchors=_anchors_of_shapes(settings),
        head_units=256,
        sampler=RandomSampler(128, 0.5),
        proposals=ProposalSelector(500, 500, max_proposals=200),
        region_sampler=RandomSampler(96, 0.25),
        pooler=RegionPooler(canonical_size=112.0),
    )


def _build_reppoints(settings, arguments):
    return RepPoints(**arguments, initial_spread=3.0)


def _build_retinanet(settings, arguments):
    # Plain L1 drowns the classes while all is learned from scratch.
    return RetinaNet(**arguments, anchors=_anchors_of_shapes(settings), smooth_l1_beta=0.3)


def _anchors_of_shapes(settings):
    return AnchorGenerator(settings.anchor_scale, settings.anchor_octaves, settings.anchor_ratios)


_BUILDERS = {
    "atss": _build_atss,
    "faster-rcnn": _build_faster_rcnn,
    "fcos": _build_fcos,
    "reppoints": _build_reppoints,
    "retinanet": _build_retinanet,
}


def build_backbone(
    settings: ModelSettings, image_shape: tuple[int | None, int | None, int]
) -> keras.Model:
    """Builds the backbone of a detector.

    Args:
        settings: Resolved settings.
        image_shape: Shape of a preprocessed image.

    Raises:
        ValueError: If there is no such backbone.
    """
    backbone, weights = settings.backbone, settings.backbone_weights
    if isinstance(backbone, Mapping):
        return _build_own_backbone(
            dict(backbone), weights, image_shape=image_shape, dtype=settings.dtype
        )
    if weights is not None:
        raise ValueError(
            "`backbone_weights` are for a backbone given by its arguments, as recipes give it. "
            f"Received: backbone={backbone!r}, backbone_weights={weights!r}"
        )
    if backbone == "small":
        return keras_hub.models.ResNetBackbone(
            **_SMALL, image_shape=image_shape, dtype=settings.dtype
        )
    if backbone in BACKBONES:
        cls, arguments = BACKBONES[backbone]
        if cls is ResNetBackbone:
            arguments = arguments | {"batch_norm": "train"}
        return cls(**arguments, image_shape=image_shape, dtype=settings.dtype)
    try:
        return keras_hub.models.Backbone.from_preset(backbone, dtype=settings.dtype)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"`backbone` must be one of {['small', *BACKBONES]} or a KerasHub preset. "
            f"Received: backbone={backbone!r}, which KerasHub could not load: {error}"
        ) from error


def _build_own_backbone(arguments: dict[str, Any], weights: str | None, **kwargs):
    name = arguments.pop("class", "ResNetBackbone")
    if weights is None and name == "ResNetBackbone" and arguments.get("batch_norm") != "train":
        raise ValueError(
            "A backbone that keeps the statistics of its normalisations needs trained weights: "
            "`backbone_weights` must name a PyTorch checkpoint. Received: "
            f"backbone={arguments}, backbone_weights=None"
        )
    if name not in _CLASSES:
        raise ValueError(f"`backbone` must have a class of {list(_CLASSES)}. Received: {name!r}")
    backbone = _CLASSES[name](**arguments, **kwargs)
    return backbone if weights is None else load_backbone_weights(backbone, weights)
