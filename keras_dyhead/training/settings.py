"""What a training is made of, and the detector and optimizer that follow from it."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import keras_hub
import numpy as np

from keras_dyhead.backbones import ResNetBackbone
from keras_dyhead.checkpoints import load_backbone_weights
from keras_dyhead.coco import CocoAnnotations
from keras_dyhead.detectors import (
    ATSS,
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

BACKBONES = {
    "small": {
        "input_conv_filters": [16],
        "input_conv_kernel_sizes": [3],
        "stackwise_num_filters": [64, 64, 96, 128],
        "stackwise_num_blocks": [1, 1, 1, 1],
        "block_type": "basic_block_vd",
    },
    "resnet18": {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 128, 256, 512],
        "stackwise_num_blocks": [2, 2, 2, 2],
        "block_type": "basic_block",
    },
    "resnet50": {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 128, 256, 512],
        "stackwise_num_blocks": [3, 4, 6, 3],
        "block_type": "bottleneck_block",
    },
}
"""Arguments of KerasHub's `ResNetBackbone`, by name; built with random weights."""

HEAD_CONVS = {"atss": 0, "faster-rcnn": 2, "fcos": 0, "reppoints": 0, "retinanet": 1}
"""Convolutions between DyHead and the predictions of each detector, if none are asked for; of
Faster R-CNN the dense layers of its second stage."""

DETECTORS = tuple(HEAD_CONVS)

STRATEGIES = ("none", "mirrored", "multiworker")
"""One device, all GPUs of this machine, or those of all machines named in `TF_CONFIG`."""

# Sides of the smallest anchors, in those of the smallest objects. ATSS draws its positives from the
# nine nearest anchors: larger ones give it as many.
_ANCHOR_SIZES = {"atss": 2.0, "faster-rcnn": 1.0, "retinanet": 1.0}


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """Data, model and schedule of a training.

    Args:
        images: Folder of the training images.
        annotations: COCO JSON file of the training images.
        val_images: Folder of the images to evaluate on. Defaults to `None`: the training images.
        val_annotations: COCO JSON file of those. Defaults to `None`: the training annotations.
        epochs: Passes over the training images. Defaults to `None`: 12, or as many as make
            600 steps on a small data set.
        batch_size: Images per step. Defaults to `4`.
        image_size: Side in pixels of the square that images are fitted into. Defaults to `512`.
        backbone: One of `BACKBONES`, or the name or path of a KerasHub preset with a feature
            pyramid, such as `"resnet_50_imagenet"`, or arguments of
            `keras_dyhead.backbones.ResNetBackbone`. Defaults to `"small"`.
        backbone_weights: PyTorch checkpoint for a backbone given by arguments, see
            `load_backbone_weights`. Defaults to `None`, random weights.
        detector: One of `DETECTORS`. Defaults to `"atss"`.
        num_blocks: DyHead blocks; 0 trains the detector without DyHead. Defaults to `1`.
        alignment: `"paper"` or `"published"`, as in `DyHeadNeck`. Defaults to `"paper"`.
        use_spatial_attention: Whether DyHead has its spatial attention; it and the next two measure
            what each contributes. Defaults to `True`.
        use_scale_attention: Whether it has its scale attention. Defaults to `True`.
        use_task_attention: Whether it has its task attention. Defaults to `True`.
        channels: Channels of pyramid, DyHead and heads, a multiple of 16. Defaults to `64`.
        head_convs: Convolutions between DyHead and the predictions. Defaults to `None`: as in
            `HEAD_CONVS`.
        max_level: Coarsest pyramid level; its stride is `2**max_level`. Defaults to `7`.
        anchor_scale: Side of the smallest anchor in units of the finest stride, 8 px. Defaults to
            `None`: such that it is about as large as the smallest tenth of the training boxes
            (RetinaNet, Faster R-CNN), or twice that (ATSS); FCOS and RepPoints have no anchors.
        anchor_octaves: Anchor sizes per level of RetinaNet and Faster R-CNN; ATSS has one. Defaults
            to `3`.
        anchor_ratios: Heights divided by widths of their anchors; those of ATSS are square.
            Defaults to `(0.5, 1.0, 2.0)`.
        learning_rate: Peak of the schedule: a linear warm-up over the first twentieth of the
            steps, then a cosine down to a fiftieth. Defaults to `1e-3`.
        weight_decay: Of AdamW. Defaults to `1e-4`.
        eval_every: Epochs between two evaluations. Defaults to `None`: a fifth of `epochs`.
        jit_compile: Whether to compile steps with XLA. Defaults to `False`.
        on_error: `"raise"` or `"skip"`, what to do about broken images and unusable annotations.
            Defaults to `"raise"`.
        strategy: One of `STRATEGIES`: over which devices a step's images are spread. Defaults to
            `"none"`.
        deterministic: Whether equal settings give equal weights, at the price of speed. Defaults
            to `False`.
        seed: Seed of weights, order and augmentation. Defaults to `0`.
    """

    images: str | os.PathLike
    annotations: str | os.PathLike
    val_images: str | os.PathLike | None = None
    val_annotations: str | os.PathLike | None = None
    epochs: int | None = None
    batch_size: int = 4
    image_size: int = 512
    backbone: str | Mapping[str, Any] = "small"
    backbone_weights: str | os.PathLike | None = None
    detector: str = "atss"
    num_blocks: int = 1
    alignment: str = "paper"
    use_spatial_attention: bool = True
    use_scale_attention: bool = True
    use_task_attention: bool = True
    channels: int = 64
    head_convs: int | None = None
    max_level: int = 7
    anchor_scale: float | None = None
    anchor_octaves: int = 3
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    eval_every: int | None = None
    jit_compile: bool = False
    on_error: str = "raise"
    strategy: str = "none"
    deterministic: bool = False
    seed: int = 0

    def __post_init__(self):
        paths = ("images", "annotations", "val_images", "val_annotations", "backbone_weights")
        for name in paths:
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else os.fspath(value))
        object.__setattr__(self, "anchor_ratios", tuple(self.anchor_ratios))
        if (self.val_images is None) != (self.val_annotations is None):
            raise ValueError(
                "`val_images` and `val_annotations` go together. Received: "
                f"val_images={self.val_images}, val_annotations={self.val_annotations}"
            )
        for name in ("epochs", "batch_size", "image_size", "eval_every", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be positive. Received: {name}={value}")
        if self.detector not in DETECTORS:
            raise ValueError(
                f"`detector` must be one of {DETECTORS}. Received: detector={self.detector!r}"
            )
        if self.strategy not in STRATEGIES:
            raise ValueError(
                f"`strategy` must be one of {STRATEGIES}. Received: strategy={self.strategy!r}"
            )
        if self.num_blocks < 0 or self.channels < 16 or self.channels % 16:
            raise ValueError(
                "`num_blocks` must be at least 0 and `channels` a multiple of 16. "
                f"Received: num_blocks={self.num_blocks}, channels={self.channels}"
            )

    def resolve(self, annotations: CocoAnnotations) -> "TrainingSettings":
        """Returns the settings with everything that depends on the training data filled in.

        Args:
            annotations: The checked training annotations.
        """
        steps_per_epoch = math.ceil(len(annotations.images) / self.batch_size)
        epochs = self.epochs or max(12, math.ceil(600 / steps_per_epoch))
        head_convs = self.head_convs
        if head_convs is None:
            head_convs = HEAD_CONVS[self.detector]
        return dataclasses.replace(
            self,
            epochs=epochs,
            eval_every=self.eval_every or max(1, epochs // 5),
            head_convs=head_convs,
            anchor_scale=self.anchor_scale or self._fitting_scale(annotations),
        )

    def _fitting_scale(self, annotations: CocoAnnotations) -> float | None:
        if self.detector not in _ANCHOR_SIZES:
            return None
        sides = [np.zeros(0)]
        for image in annotations.images:
            width, height = (image.boxes[:, 2:] - image.boxes[:, :2]).T
            sides.append(np.sqrt(width * height) * self.image_size / max(image.height, image.width))
        small = float(np.quantile(np.concatenate(sides), 0.1))
        return round(_ANCHOR_SIZES[self.detector] * min(4.0, max(1.0, small / 8)), 2)


def build_detector(
    settings: TrainingSettings,
    class_names: Sequence[str],
    steps: int,
    preprocessor: DetectionPreprocessor,
) -> Detector:
    """Builds and compiles the detector of a training.

    Args:
        settings: Resolved settings.
        class_names: Names of the classes, which the model keeps.
        steps: Optimizer steps of the whole training, which the learning rate is scheduled over.
        preprocessor: The preprocessor of the data, which becomes the model's.

    Raises:
        ValueError: If there is no such backbone.
    """
    shape = (settings.image_size, settings.image_size, 3)
    arguments = {
        "backbone": _build_backbone(settings, shape),
        "num_classes": len(class_names),
        "class_names": class_names,
        "num_blocks": settings.num_blocks,
        "alignment": settings.alignment,
        "use_spatial_attention": settings.use_spatial_attention,
        "use_scale_attention": settings.use_scale_attention,
        "use_task_attention": settings.use_task_attention,
        "channels": settings.channels,
        "image_shape": shape,
        "max_level": settings.max_level,
        "head_convs": settings.head_convs,
        "preprocessor": preprocessor,
    }
    model = _BUILDERS[settings.detector](settings, arguments)
    warmup = max(1, steps // 20)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=settings.learning_rate / 100,
        warmup_target=settings.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(1, steps - warmup),
        alpha=0.02,
    )
    optimizer = keras.optimizers.AdamW(
        schedule, weight_decay=settings.weight_decay, global_clipnorm=10.0
    )
    model.compile(optimizer, jit_compile=settings.jit_compile)
    return model


def _build_atss(settings, arguments):
    anchors = AnchorGenerator(settings.anchor_scale, octaves=1, ratios=(1.0,), offset=0.5)
    return ATSS(**arguments, anchors=anchors)


def _build_fcos(settings, arguments):
    return FCOS(**arguments)


def _build_faster_rcnn(settings, arguments):
    # About a quarter of what is published: levels' pixels, regions, their pixels, units.
    return FasterRCNN(
        head_layers=arguments.pop("head_convs"),
        **arguments,
        anchors=_anchors_of_shapes(settings),
        min_level=3,
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


def _build_backbone(settings: TrainingSettings, shape):
    backbone, weights = settings.backbone, settings.backbone_weights
    if isinstance(backbone, Mapping):
        return _build_resnet(backbone, weights, shape)
    if weights is not None:
        raise ValueError(
            "`backbone_weights` are for a backbone given by its arguments, as recipes give it. "
            f"Received: backbone={backbone!r}, backbone_weights={weights!r}"
        )
    if backbone in BACKBONES:
        return keras_hub.models.ResNetBackbone(
            **BACKBONES[backbone], stackwise_num_strides=[1, 2, 2, 2], image_shape=shape
        )
    try:
        return keras_hub.models.Backbone.from_preset(backbone)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"`backbone` must be one of {list(BACKBONES)} or a KerasHub preset. "
            f"Received: backbone={backbone!r}, which KerasHub could not load: {error}"
        ) from error


def _build_resnet(arguments: Mapping[str, Any], weights: str | None, shape):
    if weights is not None:
        return load_backbone_weights(ResNetBackbone(**arguments, image_shape=shape), weights)
    if arguments.get("batch_norm", "frozen") != "train":
        raise ValueError(
            "A backbone that keeps the statistics of its normalisations needs trained weights: "
            "`backbone_weights` must name a PyTorch checkpoint. Received: "
            f"backbone={dict(arguments)}, backbone_weights=None"
        )
    return ResNetBackbone(**arguments, image_shape=shape)
