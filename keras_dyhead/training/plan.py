"""Fills in the defaults of settings and records the resulting configuration."""

import dataclasses
import hashlib
import math
import platform
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from keras_dyhead.coco import CocoAnnotations
from keras_dyhead.detectors import DETECTORS
from keras_dyhead.training.data import build_preprocessor, open_training_data
from keras_dyhead.training.model import reinitialized_layers, trained_config
from keras_dyhead.training.settings import DEFAULT_NUM_BLOCKS, TrainingSettings
from keras_dyhead.version import __version__

_HEAD_LAYERS = {"faster-rcnn": 2, "retinanet": 1}

# Side of the smallest anchors relative to that of the smallest objects. ATSS picks its positives
# from the nine nearest anchors, so larger anchors give it just as many.
_ANCHOR_SIZES = {"atss": 2.0, "faster-rcnn": 1.0, "retinanet": 1.0}


def resolve_settings(settings: TrainingSettings, annotations: CocoAnnotations) -> TrainingSettings:
    """Returns the settings with all defaults filled in, some from the training annotations."""
    if not any(len(image.boxes) for image in annotations.images):
        raise ValueError(f"{annotations.path} has no boxes to train on.")
    steps_per_epoch = math.ceil(len(annotations.images) / settings.batch_size)
    epochs = settings.epochs or max(12, math.ceil(600 / steps_per_epoch))
    every = max(1, epochs // 5) if settings.patience is None else 1
    defaults = {"epochs": epochs, "eval_every": every}
    preprocessor = build_preprocessor(settings)
    if settings.published is not None:
        defaults |= _published_model(settings)
    elif settings.weights is None:  # else the file defines the model
        defaults |= _own_model(settings, annotations, preprocessor)
    if preprocessor.image_size is not None:
        defaults["image_size"] = preprocessor.image_size[0]
    else:
        defaults |= {"min_side": preprocessor.min_side, "max_side": preprocessor.max_side}
    augmentation = dataclasses.asdict(settings.build_augmentation())
    missing = {name: value for name, value in defaults.items() if getattr(settings, name) is None}
    return dataclasses.replace(settings, augmentation=augmentation, **missing)


def _own_model(settings, annotations, preprocessor) -> dict[str, Any]:
    return {
        "backbone": "small",
        "num_blocks": DEFAULT_NUM_BLOCKS,
        "channels": 64,
        "alignment": "paper",
        "start": "identity",
        "head_layers": _HEAD_LAYERS.get(settings.detector, 0),
        "max_level": DETECTORS[settings.detector].default_pyramid().max_level,
        "anchor_scale": _fitting_anchor_scale(settings, annotations, preprocessor),
        "anchor_octaves": 3,
        "anchor_ratios": (0.5, 1.0, 2.0),
    }


def _published_model(settings: TrainingSettings) -> dict[str, Any]:
    record = settings.published
    return {
        "backbone": {"class": record.backbone, **record.backbone_arguments},
        "num_blocks": record.neck.get("num_blocks", 6),
        "channels": record.neck.get("channels", 256),
        "alignment": record.neck["alignment"],
        "start": record.neck["start"],
    }


def _fitting_anchor_scale(settings, annotations, preprocessor) -> float | None:
    """Returns the `anchor_scale` that fits the boxes, or `None` without anchors."""
    if settings.detector not in _ANCHOR_SIZES:
        return None
    sides = []
    for image in annotations.images:
        resized = preprocessor.resized_size(image.height, image.width)
        factor = max(resized) / max(image.height, image.width)
        width, height = (image.boxes[:, 2:] - image.boxes[:, :2]).T
        sides.append(np.sqrt(width * height) * factor)
    small = min(32.0, max(8.0, float(np.quantile(np.concatenate(sides), 0.1))))
    stride = 2 ** DETECTORS[settings.detector].default_pyramid().min_level
    return round(_ANCHOR_SIZES[settings.detector] * small / stride, 2)


def package_versions() -> dict[str, str]:
    """Returns the versions of this package, Python, and the main dependencies."""
    return {
        "keras_dyhead": __version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "keras_hub": keras_hub.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def training_config(settings: TrainingSettings, data: tf.data.Dataset) -> dict:
    """Returns the configuration of a training run with resolved settings, ready for JSON.

    It has `settings`; `follows`, the values derived from them (see `TrainingSettings.scaled`),
    the number of steps, the preprocessing, what the file of `weights` holds, and the remaining
    arguments of a published model; `data`, the number of images and boxes and their checksum;
    `class_names`; `versions`.
    """
    steps = len(data) * settings.epochs
    preprocessing = build_preprocessor(settings).get_config()
    follows = {
        "steps_per_epoch": len(data),
        "steps": steps,
        **settings.scaled(steps),
        "preprocessing": {k: v for k, v in preprocessing.items() if k not in ("name", "trainable")},
    }
    if settings.weights is not None:
        trained = trained_config(settings.weights)
        follows["weights"] = {
            "detector": trained["class"].__name__,
            "dtype": keras.dtype_policies.get(trained.get("dtype")).name,
            "reinitialized": list(reinitialized_layers(settings.weights, data.class_names)),
        }
    if settings.published is not None:
        follows["published"] = dataclasses.asdict(settings.published)["arguments"]
    return {
        "settings": dataclasses.asdict(settings),
        "follows": follows,
        "data": describe_data(data.annotations),
        "class_names": list(data.class_names),
        "versions": package_versions(),
    }


def describe_data(annotations: CocoAnnotations) -> dict[str, int | str]:
    """Returns the number of images and boxes of a dataset, and their checksum."""
    digest = hashlib.sha256()
    for image in annotations.images:
        digest.update(f"{image.id} {image.path.name} {image.height} {image.width}".encode())
        digest.update(image.boxes.tobytes() + image.labels.tobytes())
    return {
        "images": len(annotations.images),
        "boxes": sum(len(image.boxes) for image in annotations.images),
        "checksum": digest.hexdigest()[:16],
    }


def planned_config(settings: TrainingSettings) -> dict:
    """Returns the configuration that a training run would have, without reading its images."""
    data = open_training_data(
        settings,
        build_preprocessor(settings),
        verify=False,
        drop_remainder=settings.strategy != "none",
    )
    resolved = resolve_settings(settings, data.annotations)
    return training_config(resolved, data)
