"""What a training is made of."""

import dataclasses
import numbers
import os
import re
from collections.abc import Mapping
from typing import Any

from keras_dyhead.checkpoints import COMPOSED, PUBLISHED, PublishedModel
from keras_dyhead.coco import Augmentation
from keras_dyhead.coco.checks import check
from keras_dyhead.detectors import DETECTORS

DEFAULT_NUM_BLOCKS = 2
"""As good as six for ATSS in the study (`docs/study.md`), at a third of their cost."""

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "step")
KEEP = ("best", "last")
STRATEGIES = ("none", "mirrored", "multiworker")
"""One device, all GPUs of this machine, or those of all machines named in `TF_CONFIG`."""

# What a published model has settled.
_PUBLISHED = ("head_layers", "max_level", "anchor_scale", "anchor_octaves", "anchor_ratios")
# What a trained model has settled.
_MODEL = (
    *("detector", "backbone", "backbone_weights", "num_blocks", "channels", "alignment", "start"),
    *("use_spatial_attention", "use_scale_attention", "use_task_attention", "dtype", *_PUBLISHED),
)
PARTS = ("backbone", "pyramid", "neck", "head")
"""Parts of a detector that can be frozen."""

_POSITIVE = (
    *("batch_size", "image_size", "min_side", "max_side", "learning_rate", "base_batch_size"),
    *("clip_norm", "accumulate_steps", "epochs", "eval_every", "patience"),
)


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """Data, model, optimizer and run of a training.

    Args:
        images: Folder of the training images.
        annotations: COCO JSON file of the training images.
        val_images: Folder of the images to evaluate on. Defaults to `None`: see `val_split`.
        val_annotations: COCO JSON file of those. Defaults to `None`.
        val_split: Part of the training images to hold out and evaluate on, drawn by `seed`, where
            there are no `val_images`. Defaults to `0.0`: the training images are evaluated, and
            the figures are called `train_AP` and so on.
        batch_size: Images per step, on all devices together. Defaults to `4`.
        image_size: Side in pixels of the square that images are fitted into. Defaults to `None`:
            512, unless there are `canvases`.
        canvases: `(height, width)` of the batches, in place of `image_size`: every image goes into
            the one it fits best, resized by `min_side` and `max_side`. Defaults to `None`.
        min_side: Length that the shorter side of an image gets ... Defaults to `None`: 800, or as
            published.
        max_side: ... unless the longer one would exceed this. Defaults to `None`: 1333, or as
            published.
        augmentation: Arguments of `keras_dyhead.coco.Augmentation`. Defaults to `None`, its
            defaults.
        on_error: `"raise"` or `"skip"`, what to do about broken images and unusable annotations.
            Defaults to `"raise"`.
        weights: A trained detector to go on from: a `.keras` file, or the name of a published model
            (`PUBLISHED` of `keras_dyhead.checkpoints`), which is fetched. All its weights are kept
            but those that belong to the classes, see `Detector.with_classes`. The detector and its
            dtype are then those of the file. Defaults to `None`.
        freeze: Parts of the detector that do not train, of `"backbone"`, `"pyramid"`, `"neck"` and
            `"head"`. Defaults to `()`.
        detector: One of `keras_dyhead.detectors.DETECTORS`, or the name of a published model
            (`PUBLISHED` and `COMPOSED` of `keras_dyhead.checkpoints`): that very model, for other
            classes. Defaults to `"atss"`.
        backbone: `"small"` or one of `keras_dyhead.backbones.BACKBONES`; or the name or path of a
            KerasHub preset with a feature pyramid, such as `"resnet_50_imagenet"`; or arguments of
            a class of `keras_dyhead.backbones`, which `"class"` names if it is not
            `ResNetBackbone`. Defaults to `None`: `"small"`, or as published.
        backbone_weights: PyTorch checkpoint for a backbone of `keras_dyhead.backbones`, see
            `load_backbone_weights`. Defaults to `None`, random weights.
        num_blocks: DyHead blocks; 0 trains the detector without DyHead. Defaults to `None`:
            `DEFAULT_NUM_BLOCKS`, or as published.
        channels: Channels of pyramid, DyHead and heads, a multiple of 16. Defaults to `None`: 64,
            or as published.
        alignment: As in `DyHeadNeck`, like the next four. Defaults to `None`: `"paper"`, or as
            published.
        start: Defaults to `None`: `"identity"`, or as published.
        use_spatial_attention: Defaults to `True`.
        use_scale_attention: Defaults to `True`.
        use_task_attention: Defaults to `True`.
        head_layers: Layers between DyHead and the predictions, which a published model has settled
            like the next four. Defaults to `None`: no layers, but a convolution in RetinaNet and
            two dense layers in Faster R-CNN.
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
        optimizer: `"adamw"`, or `"sgd"`, see `RegularizedSGD`. Defaults to `"adamw"`.
        momentum: Of SGD. Defaults to `0.9`.
        learning_rate: Peak of the schedule. Defaults to `None`: `1e-3`, with `weights` `1e-4`.
        base_batch_size: Images per update that `learning_rate` is meant for: it is scaled in
            proportion to the images that there are. Defaults to `None`, not scaled.
        schedule: `"cosine"`: down to a fiftieth of the peak, or `"step"`: a tenth of what it was
            at each milestone. Both begin with a linear warm-up. Defaults to `"cosine"`.
        milestones: When `"step"` lowers the learning rate, in parts of the training. Defaults to
            `(2 / 3, 8 / 9)`.
        warmup_steps: Updates until the learning rate is reached. Defaults to `None`: a twentieth of
            all.
        weight_decay: What each update takes away from a weight, in parts of it and of the learning
            rate. Defaults to `1e-4`.
        no_decay: Regular expressions; weights with a path in which one is found do not decay.
            Defaults to `()`.
        clip_norm: Largest norm of the gradient of all weights, or `None`. Defaults to `10.0`.
        ema_momentum: Keeps a moving average of the weights, which is what is evaluated and saved in
            the end: the part of it that an update leaves. Defaults to `None`, no average.
        accumulate_steps: Steps whose gradients are averaged for one update. Defaults to `1`.
        epochs: Passes over the training images. Defaults to `None`: 12, or as many as make
            600 steps on a small data set.
        eval_every: Epochs between two evaluations. Defaults to `None`: a fifth of `epochs`, 1 with
            `patience`.
        keep: The weights that become the model: those of the `"best"` evaluation by AP on images
            that were not trained on, or of the `"last"` epoch. Defaults to `"best"`.
        patience: Evaluations without a better AP after which the training ends. Defaults to `None`:
            it goes through all epochs.
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

    images: str | os.PathLike
    annotations: str | os.PathLike
    val_images: str | os.PathLike | None = None
    val_annotations: str | os.PathLike | None = None
    val_split: float = 0.0
    batch_size: int = 4
    image_size: int | None = None
    canvases: tuple[tuple[int, int], ...] | None = None
    min_side: int | None = None
    max_side: int | None = None
    augmentation: Mapping[str, Any] | None = None
    on_error: str = "raise"
    weights: str | os.PathLike | None = None
    freeze: tuple[str, ...] = ()
    detector: str = "atss"
    backbone: str | Mapping[str, Any] | None = None
    backbone_weights: str | os.PathLike | None = None
    num_blocks: int | None = None
    channels: int | None = None
    alignment: str | None = None
    start: str | None = None
    use_spatial_attention: bool = True
    use_scale_attention: bool = True
    use_task_attention: bool = True
    head_layers: int | None = None
    max_level: int | None = None
    anchor_scale: float | None = None
    anchor_octaves: int | None = None
    anchor_ratios: tuple[float, ...] | None = None
    dtype: str = "float32"
    optimizer: str = "adamw"
    momentum: float = 0.9
    learning_rate: float | None = None
    base_batch_size: int | None = None
    schedule: str = "cosine"
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)
    warmup_steps: int | None = None
    weight_decay: float = 1e-4
    no_decay: tuple[str, ...] = ()
    clip_norm: float | None = 10.0
    ema_momentum: float | None = None
    accumulate_steps: int = 1
    epochs: int | None = None
    eval_every: int | None = None
    keep: str = "best"
    patience: int | None = None
    jit_compile: bool = False
    strategy: str = "none"
    deterministic: bool = False
    seed: int = 0

    def __post_init__(self):
        paths = ("images", "annotations", "val_images", "val_annotations")
        self._convert(os.fspath, *paths, "backbone_weights", "weights")
        self._convert(tuple, "anchor_ratios", "milestones", "no_decay", "freeze")
        if self.learning_rate is None:
            rate = 1e-3 if self.weights is None else 1e-4
            object.__setattr__(self, "learning_rate", rate)
        self._convert(lambda canvases: tuple(map(tuple, canvases)), "canvases")
        for field in dataclasses.fields(self):
            if field.type in (int, int | None):
                value = getattr(self, field.name)
                whole = value is None or isinstance(value, numbers.Integral)
                self._check(field.name, whole, "a whole number")
        for name in _POSITIVE:
            value = getattr(self, name)
            self._check(name, value is None or value > 0, "positive")
        self._check_data()
        self._check_model()
        self._check_optimizer()
        self._check("keep", self.keep in KEEP, f"one of {KEEP}")
        self._check("strategy", self.strategy in STRATEGIES, f"one of {STRATEGIES}")
        together = self.accumulate_steps == 1 or self.strategy == "none"
        self._check("accumulate_steps", together, f"1 with the strategy {self.strategy!r}")

    def _check_data(self):
        if (self.val_images is None) != (self.val_annotations is None):
            raise ValueError(
                "`val_images` and `val_annotations` go together. Received: "
                f"val_images={self.val_images}, val_annotations={self.val_annotations}"
            )
        self._check("val_split", 0 <= self.val_split < 1, "from 0 to below 1")
        if self.val_split and self.val_images is not None:
            raise ValueError(
                "`val_split` is for trainings without `val_images`. Received: "
                f"val_split={self.val_split}, val_images={self.val_images}"
            )
        if self.patience is not None and not self.held_out:
            raise ValueError(
                "`patience` needs images that are not trained on: `val_images` or `val_split`. "
                f"Received: patience={self.patience}"
            )
        if self.canvases is not None and self.image_size is not None:
            raise ValueError(
                "`image_size` and `canvases` exclude each other. Received: "
                f"image_size={self.image_size}, canvases={self.canvases}"
            )
        self.build_augmentation()

    def _check_model(self):
        known = self.detector in DETECTORS or self.published is not None
        self._check("detector", known, f"one of {list(DETECTORS)} or a published model")
        self._check("num_blocks", (self.num_blocks or 0) >= 0, "at least 0")
        channels = 16 if self.channels is None else self.channels
        self._check("channels", channels >= 16 and channels % 16 == 0, "a multiple of 16")
        known = set(self.freeze) <= set(PARTS)
        self._check("freeze", known, f"among {PARTS}")
        if self.weights is not None:
            defaults = {field.name: field.default for field in dataclasses.fields(self)}
            given = {name: getattr(self, name) for name in _MODEL}
            given = {name: value for name, value in given.items() if value != defaults[name]}
            if given:
                raise ValueError(
                    f"The model of `weights` is as it was trained. Received: weights="
                    f"{self.weights!r} and {given}"
                )
        given = {name: getattr(self, name) for name in _PUBLISHED}
        given = {name: value for name, value in given.items() if value is not None}
        if self.published is not None and given:
            raise ValueError(
                f"Of the published model {self.detector!r}, {list(given)} cannot be changed. "
                f"Received: {given}"
            )

    def _check_optimizer(self):
        self._check("optimizer", self.optimizer in OPTIMIZERS, f"one of {OPTIMIZERS}")
        self._check("schedule", self.schedule in SCHEDULES, f"one of {SCHEDULES}")
        self._check("warmup_steps", (self.warmup_steps or 0) >= 0, "at least 0")
        self._check("weight_decay", self.weight_decay >= 0, "at least 0")
        self._check("momentum", 0 <= self.momentum < 1, "from 0 to below 1")
        self._check("ema_momentum", 0 <= (self.ema_momentum or 0) < 1, "from 0 to below 1")
        times = (0, *self.milestones, 1)
        ascending = len(times) > 2 and sorted(set(times)) == list(times)
        self._check("milestones", ascending, "ascending, between 0 and 1")
        for pattern in self.no_decay:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"`no_decay` must hold regular expressions. Received: {pattern!r} ({error})"
                ) from None

    def _convert(self, function, *names):
        """Stores what was given in the type that it has from here on."""
        for name in names:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, function(getattr(self, name)))

    def _check(self, name, valid, expected):
        check(name, getattr(self, name), valid, expected)

    @property
    def held_out(self) -> bool:
        """Whether the images to evaluate on are others than those to train on."""
        return self.val_images is not None or self.val_split > 0

    @property
    def figure_prefix(self) -> str:
        """What the names of the COCO figures begin with in the history."""
        return "val_" if self.held_out else "train_"

    @property
    def published(self) -> PublishedModel | None:
        """The record of the published model, if `detector` names one."""
        return (PUBLISHED | COMPOSED).get(self.detector)

    def build_augmentation(self) -> Augmentation:
        """Returns how training images are varied.

        Raises:
            ValueError: If `augmentation` has other names than the arguments of `Augmentation`.
        """
        given = self.augmentation or {}
        known = [field.name for field in dataclasses.fields(Augmentation)]
        unknown = sorted(set(given).difference(known))
        if unknown:
            raise ValueError(f"`augmentation` may have {known}. Received: {unknown}")
        return Augmentation(**given)

    def scaled(self, steps: int) -> dict[str, float | int | list[int]]:
        """Returns what the optimizer's settings amount to in a training.

        Args:
            steps: Steps of the whole training; several make one update with `accumulate_steps`.

        Returns:
            `images_per_update`, `peak_learning_rate`, and in steps, counted from 0: `warmup_steps`
            and, with `schedule="step"`, `milestone_steps`, the first ones at a lower rate.

        Example:

        >>> settings = TrainingSettings("a", "a.json", learning_rate=0.02, base_batch_size=16)
        >>> settings.scaled(steps=1000)["peak_learning_rate"]
        0.005
        """
        images = self.batch_size * self.accumulate_steps
        warmup = self.warmup_steps
        milestones = self.milestones if self.schedule == "step" else ()
        return {
            "images_per_update": images,
            "peak_learning_rate": self.learning_rate * images / (self.base_batch_size or images),
            "warmup_steps": (
                max(1, steps // 20) if warmup is None else warmup * self.accumulate_steps
            ),
            "milestone_steps": [round(part * steps) for part in milestones],
        }
