"""What a training is made of, and the compiled detector that follows from it."""

import dataclasses
import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager

import tensorflow as tf

from keras_dyhead.coco import CocoAnnotations
from keras_dyhead.detectors import DetectionPreprocessor, Detector
from keras_dyhead.ops import sparse_sampling
from keras_dyhead.training.data import DataSettings
from keras_dyhead.training.model import (
    ModelSettings,
    build_model,
    fitting_anchor_scale,
)
from keras_dyhead.training.optimizer import OptimizerSettings, build_optimizer, check

__all__ = [
    "STRATEGIES",
    "TrainingSettings",
    "build_detector",
    "build_preprocessor",
]

STRATEGIES = ("none", "mirrored", "multiworker")
"""One device, all GPUs of this machine, or those of all machines named in `TF_CONFIG`."""


@dataclasses.dataclass(frozen=True)
class TrainingSettings(OptimizerSettings, ModelSettings, DataSettings):
    """Data, model, optimizer and run of a training.

    Args:
        images: This and the next ten are the arguments of `DataSettings`, then those of
            `ModelSettings` and of `OptimizerSettings`, all of them by the same names. Then follow:
        epochs: Passes over the training images. Defaults to `None`: 12, or as many as make
            600 steps on a small data set.
        eval_every: Epochs between two evaluations. Defaults to `None`: a fifth of `epochs`.
        jit_compile: Whether to compile steps with XLA. Defaults to `False`.
        strategy: One of `STRATEGIES`: over which devices a step's images are spread. Defaults to
            `"none"`.
        deterministic: Whether equal settings give equal weights, at the price of speed. Defaults
            to `False`.
        seed: Seed of weights, order and augmentation. Defaults to `0`.

    Raises:
        ValueError: If one of them is impossible; the message names it.

    Example:

    >>> settings = TrainingSettings("photos", "instances.json", detector="fcos", epochs=24)
    >>> settings.epochs, settings.learning_rate
    (24, 0.001)
    """

    epochs: int | None = None
    eval_every: int | None = None
    jit_compile: bool = False
    strategy: str = "none"
    deterministic: bool = False
    seed: int = 0

    def __post_init__(self):
        for part in (DataSettings, ModelSettings, OptimizerSettings):
            part.__post_init__(self)
        if self.backbone_weights is not None:
            object.__setattr__(self, "backbone_weights", os.fspath(self.backbone_weights))
        for name in ("epochs", "eval_every"):
            value = getattr(self, name)
            check(self, name, value is None or value > 0, "positive")
        check(self, "strategy", self.strategy in STRATEGIES, f"one of {STRATEGIES}")
        together = self.accumulate_steps == 1 or self.strategy == "none"
        check(self, "accumulate_steps", together, f"1 with the strategy {self.strategy!r}")

    def resolve(self, annotations: CocoAnnotations) -> "TrainingSettings":
        """Returns the settings with all defaults filled in.

        Args:
            annotations: The checked training annotations, on which some depend.
        """
        preprocessor = build_preprocessor(self)
        changes = self.model_defaults()
        if self.offset_rate is None:
            changes["offset_rate"] = 0.1 if self.published is None else 1.0
        if self.published is None and self.anchor_scale is None:
            changes["anchor_scale"] = fitting_anchor_scale(self.detector, annotations, preprocessor)
        if preprocessor.image_size is not None:
            changes["image_size"] = preprocessor.image_size[0]
        else:
            changes |= {"min_side": preprocessor.min_side, "max_side": preprocessor.max_side}
        steps_per_epoch = math.ceil(len(annotations.images) / self.batch_size)
        epochs = self.epochs or max(12, math.ceil(600 / steps_per_epoch))
        return dataclasses.replace(
            self,
            **changes,
            augmentation=dataclasses.asdict(self.build_augmentation()),
            epochs=epochs,
            eval_every=self.eval_every or max(1, epochs // 5),
        )


def build_preprocessor(settings: TrainingSettings) -> DetectionPreprocessor:
    """Returns the preprocessor of the data, which becomes the model's.

    Args:
        settings: The settings.
    """
    arguments = {}
    if settings.published is None:
        arguments["pad_multiple"] = 2 ** (settings.max_level or 7)
    else:
        arguments |= settings.published.preprocessing
    if settings.canvases is None:
        arguments["image_size"] = (settings.image_size or 512,) * 2
    for name in ("min_side", "max_side"):
        if getattr(settings, name) is not None:
            arguments[name] = getattr(settings, name)
    return DetectionPreprocessor(**arguments)


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
        steps: Steps of the whole training, which the learning rate is scheduled over.
        preprocessor: The preprocessor of the data, which becomes the model's.

    Raises:
        ValueError: If there is no such backbone.

    Example:

    >>> drawn = draw_shapes("shapes", 4, image_size=64)
    >>> annotations = CocoAnnotations(drawn, "shapes/images")
    >>> settings = TrainingSettings("shapes/images", drawn, image_size=64, max_level=5)
    >>> settings = settings.resolve(annotations)
    >>> preprocessor = DetectionPreprocessor(image_size=(64, 64))
    >>> model = build_detector(settings, annotations.class_names, 600, preprocessor)
    >>> model.num_classes, model.neck.channels
    (5, 64)
    """
    model = build_model(settings, class_names, preprocessor)
    optimizer = build_optimizer(settings, model.trainable_variables, settings.batch_size, steps)
    model.compile(optimizer, jit_compile=settings.jit_compile)
    return model


def fastest_sampling(settings: TrainingSettings) -> AbstractContextManager:
    """Returns the context to train in: sparse products on CPUs, but where XLA compiles the step.

    Args:
        settings: The settings.

    Example:

    >>> with fastest_sampling(settings):
    ...     model.fit(dataset)  # doctest: +SKIP (needs a model)
    """
    on_cpu = not tf.config.list_physical_devices("GPU")
    return sparse_sampling(on_cpu and not settings.jit_compile)
