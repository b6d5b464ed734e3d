"""Builds the detector that the training settings describe, and estimates its memory."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_dyhead.checkpoints import PUBLISHED, load_detector
from keras_dyhead.checkpoints.load_checkpoint import stored_config
from keras_dyhead.coco import COCO_CLASSES
from keras_dyhead.detectors import (
    DETECTORS,
    AnchorGenerator,
    DetectionPreprocessor,
    Detector,
    ProposalSelector,
    RandomSampler,
    RegionPooler,
)
from keras_dyhead.layers import DyHeadNeck, FeaturePyramid
from keras_dyhead.training.backbone import build_backbone
from keras_dyhead.training.optimizer import build_optimizer
from keras_dyhead.training.settings import NECK, TrainingSettings

_MAPS_OF_PYRAMID = 3  # lateral, merged, output
_MAPS_OF_BLOCK = 14  # three convolutions, their normalizations, the attentions, and gradients
_MAPS_OF_HEAD_LAYER = 6  # convolution, normalization and activation, twice
_WORKSPACE = 1.3  # extra memory of convolutions and the optimizer


def build_detector(
    settings: TrainingSettings,
    class_names: Sequence[str],
    steps: int,
    preprocessor: DetectionPreprocessor,
) -> Detector:
    """Builds and compiles the detector of a training run.

    `settings` are resolved, and `steps` are those of the whole run. The model keeps the names of
    the classes and the preprocessor of the data.
    """
    model = build_model(settings, class_names, preprocessor)
    for part in settings.freeze:
        layer = getattr(model, part)
        if layer is not None:  # a baseline has no neck
            layer.trainable = False
    optimizer = build_optimizer(settings, model.trainable_variables, steps)
    # JAX compiles with `None` too.
    model.compile(optimizer, jit_compile=settings.jit_compile or None)
    return model


def build_model(
    settings: TrainingSettings, class_names: Sequence[str], preprocessor: DetectionPreprocessor
) -> Detector:
    """Builds the detector of resolved settings without compiling it; see `build_detector`."""
    if settings.weights is not None:
        model = load_detector(settings.weights).with_classes(class_names)
        model.preprocessor = preprocessor
        return model
    shape = (*(preprocessor.image_size or (None, None)), 3)
    arguments = {
        "backbone": build_backbone(settings, shape),
        "class_names": class_names,
        "neck": build_neck(settings),
        "pyramid": _build_pyramid(settings),
        "image_shape": shape,
        "preprocessor": preprocessor,
        "dtype": settings.dtype,
    }
    if settings.published is not None:
        return settings.published.build(**arguments)
    return DETECTORS[settings.detector](
        num_classes=len(class_names),
        head_layers=settings.head_layers,
        **arguments,
        **_own_arguments(settings),
    )


def build_neck(settings: TrainingSettings) -> DyHeadNeck | None:
    """Returns the DyHead of resolved settings, or `None` if it has no blocks."""
    if settings.num_blocks == 0:
        return None
    given = {} if settings.published is None else settings.published.neck
    asked = {name: getattr(settings, name) for name in NECK}
    return DyHeadNeck(**{**given, **asked}, dtype=settings.dtype, name="dyhead")


def _build_pyramid(settings):
    if settings.published is not None:
        given = settings.published.pyramid
    else:
        default = DETECTORS[settings.detector].default_pyramid()
        given = {
            "min_level": default.min_level,
            "max_level": settings.max_level,
            "extra_levels": default.extra_levels,
        }
    given = {**given, "channels": settings.channels}
    return FeaturePyramid(**given, dtype=settings.dtype, name="feature_pyramid")


def _own_arguments(settings):
    """Returns arguments that suit training from scratch on small images."""
    scale = settings.anchor_scale
    if settings.detector == "atss":
        return {"anchors": AnchorGenerator(scale, octaves=1, ratios=(1.0,), offset=0.5)}
    if settings.detector == "reppoints":
        return {"initial_spread": 3.0}
    if settings.detector == "fcos":
        return {}
    anchors = AnchorGenerator(scale, settings.anchor_octaves, settings.anchor_ratios)
    if settings.detector == "retinanet":  # plain L1 outweighs the class loss
        return {"anchors": anchors, "smooth_l1_beta": 0.3}
    return {  # a half to a fifth of the published values
        "anchors": anchors,
        "head_units": 256,
        "sampler": RandomSampler(128, 0.5),
        "proposals": ProposalSelector(500, 500, max_proposals=200),
        "region_sampler": RandomSampler(96, 0.25),
        "pooler": RegionPooler(canonical_size=112.0),
    }


def step_memory(model: Detector, settings: TrainingSettings) -> int:
    """Estimates how many bytes a training step takes on all devices together.

    Counts the weights, the optimizer's variables, and the feature maps that the backward pass
    needs, for the largest canvas. The estimate is rough: the one step that was measured, on a CPU,
    took nearly twice as much.
    """
    copies = 2 + (2 if settings.optimizer == "adamw" else 1) + (settings.ema_momentum is not None)
    sides = settings.canvases or [model.preprocessor.image_size]
    height, width = max(sides, key=np.prod)
    shape = (settings.batch_size, height, width, 3)
    backbone = model.backbone
    outputs = keras.tree.flatten([layer.output for layer in backbone.layers])
    maps = keras.Model(backbone.inputs, outputs).compute_output_shape(shape)
    values = sum(np.prod(one, dtype="float64") for one in maps)
    pyramid, blocks = model.pyramid, model.neck.num_blocks if model.neck is not None else 0
    levels = range(pyramid.min_level, pyramid.max_level + 1)
    cells = sum(-(-height // 2**level) * -(-width // 2**level) for level in levels)
    per_cell = _MAPS_OF_PYRAMID + blocks * _MAPS_OF_BLOCK
    per_cell += _MAPS_OF_HEAD_LAYER * (settings.head_layers or 1)
    values += settings.batch_size * cells * per_cell * pyramid.channels
    size = 2 if model.compute_dtype in ("float16", "bfloat16") else 4
    return int(_WORKSPACE * (copies * 4 * model.count_params() + size * values))


def reinitialized_layers(weights: str, class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the layers of a trained detector that start with new weights for these classes."""
    trained = trained_config(weights)
    same = list(trained["class_names"] or ()) == list(class_names)
    return () if same else trained["class"].class_layers


def trained_config(weights: str) -> dict:
    """Returns the arguments of the detector in a `.keras` file, and its `class`.

    Of a published model, it returns only `class` and `class_names`.
    """
    if weights in PUBLISHED:
        return {"class": DETECTORS[PUBLISHED[weights].detector], "class_names": COCO_CLASSES}
    content = stored_config(weights)
    detector = keras.saving.get_registered_object(content.get("registered_name") or "")
    if not (isinstance(detector, type) and issubclass(detector, Detector)):
        raise ValueError(
            f"{weights} must contain a keras_dyhead detector. Received: a {content['class_name']}"
        )
    return content["config"] | {"class": detector}
