"""The settings of a training run."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from keras_dyhead.checkpoints import COMPOSED, PUBLISHED, PublishedModel
from keras_dyhead.coco import Augmentation
from keras_dyhead.detectors import DETECTORS
from keras_dyhead.ops.arguments import check, check_choice, check_patterns, check_types

DEFAULT_NUM_BLOCKS = 2
"""As good as six blocks for ATSS in the study (`docs/study.md`), at a third of the cost."""

STRATEGIES = ("none", "mirrored", "multiworker")
"""One device, all GPUs of this machine, or those of all machines in `TF_CONFIG`."""

_CHOICES = {
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "step"),
    "keep": ("best", "last"),
    "strategy": STRATEGIES,
}

_ATTENTIONS = ("use_spatial_attention", "use_scale_attention", "use_task_attention")
NECK = ("num_blocks", "channels", "alignment", "start", *_ATTENTIONS)
"""Settings that are arguments of `DyHeadNeck`."""

# Defaults of a new model; a trained one has its own.
_NEW_MODEL = {"detector": "atss", "dtype": "float32", **dict.fromkeys(_ATTENTIONS, True)}
# Fixed in a published model.
_PUBLISHED = ("head_layers", "max_level", "anchor_scale", "anchor_octaves", "anchor_ratios")
# Fixed in a trained model.
_MODEL = ("backbone", "backbone_weights", *NECK, "detector", "dtype", *_PUBLISHED)
PARTS = ("backbone", "pyramid", "neck", "head")
"""Parts of a detector that can be frozen."""

_POSITIVE = (
    *("batch_size", "image_size", "min_side", "max_side", "learning_rate", "base_batch_size"),
    *("clip_norm", "accumulate_steps", "epochs", "eval_every", "patience"),
)


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """Settings of a training run: data, model, optimizer and schedule.

    Args:
        images: Folder of the training images.
        annotations: COCO JSON file of the training images.
        val_images: Folder of the validation images. Defaults to `None`: see `val_split`.
        val_annotations: COCO JSON file of the validation images. Defaults to `None`.
        val_split: Fraction of the training images to hold out for validation, chosen by `seed`, if
            `val_images` is not set. Defaults to `0.0`: the model is evaluated on the training
            images, and the metrics are called `train_AP` and so on.
        batch_size: Images per step on all devices together. Defaults to `4`.
        image_size: Side in pixels of the square that images are resized to fit. Defaults to `None`:
            512, unless `canvases` is set.
        canvases: `(height, width)` of the batches, instead of `image_size`. Each image uses the
            best fitting canvas, resized by `min_side` and `max_side`. Defaults to `None`.
        min_side: Length to resize the shorter side of an image to, within `max_side`. Defaults to
            `None`: 800, or as published.
        max_side: Maximum length of the longer side. Defaults to `None`: 1333, or as published.
        augmentation: Arguments for `keras_dyhead.coco.Augmentation`. `None` keeps its defaults.
        on_error: `"raise"` or `"skip"`: what to do with broken images and unusable annotations.
            Defaults to `"raise"`.
        weights: A trained detector to fine-tune: a `.keras` file, or the name of a published model
            (`PUBLISHED` in `keras_dyhead.checkpoints`), which is downloaded. The weights are kept
            except those that depend on the classes, see `Detector.with_classes`. The file
            defines the model, whose settings stay `None`. Defaults to `None`.
        freeze: Parts of the detector to freeze, from `"backbone"`, `"pyramid"`, `"neck"` and
            `"head"`. Defaults to `()`.
        detector: One of `keras_dyhead.detectors.DETECTORS`, or the name of a published model
            (`PUBLISHED` or `COMPOSED` in `keras_dyhead.checkpoints`). Defaults to `None`: `"atss"`.
        backbone: `"small"`, one of `keras_dyhead.backbones.BACKBONES`, the name or path of a
            KerasHub preset with a feature pyramid, such as `"resnet_50_imagenet"`, or arguments of
            a class in `keras_dyhead.backbones`. Their `"class"` is the name of the class, by
            default `ResNetBackbone`. Defaults to `None`: `"small"`, or as published.
        backbone_weights: PyTorch checkpoint for a backbone of `keras_dyhead.backbones`, see
            `load_backbone_weights`. Defaults to `None`: random weights.
        num_blocks: DyHead blocks; 0 trains the detector without DyHead. Defaults to `None`:
            `DEFAULT_NUM_BLOCKS`, or as published.
        channels: Channels of pyramid, DyHead and heads, a multiple of 16. Defaults to `None`: 64,
            or as published.
        alignment: See `DyHeadNeck`, also for the next four. Defaults to `None`: `"paper"`, or as
            published.
        start: Defaults to `None`: `"identity"`, or as published.
        use_spatial_attention: Defaults to `None`: `True`.
        use_scale_attention: Defaults to `None`: `True`.
        use_task_attention: Defaults to `None`: `True`.
        head_layers: Layers between DyHead and the predictions. Published models fix this and the
            next four. Defaults to `None`: no layers, except one convolution in RetinaNet and two
            dense layers in Faster R-CNN.
        max_level: Coarsest pyramid level; its stride is `2**max_level`. Defaults to `None`: 6 in
            Faster R-CNN, whose pyramid starts at P2, and 7 in the others, which start at P3.
        anchor_scale: Side of the smallest anchor in units of the finest stride, 4 px in Faster
            R-CNN and 8 px in the others. Defaults to `None`: about the size of the smallest tenth
            of the training boxes (RetinaNet, Faster R-CNN), or twice that (ATSS). FCOS and
            RepPoints have no anchors.
        anchor_octaves: Anchor sizes per level of RetinaNet and Faster R-CNN; ATSS has one. Defaults
            to `None`: 3.
        anchor_ratios: Height-to-width ratios of RetinaNet's and Faster R-CNN's anchors; ATSS has
            square ones. Defaults to `None`: `(0.5, 1.0, 2.0)`.
        dtype: Policy of all layers, such as `"mixed_bfloat16"`, or `"mixed_float16"`, which also
            scales the loss. Defaults to `None`: `"float32"`.
        optimizer: `"adamw"` or `"sgd"` (see `RegularizedSGD`). Defaults to `"adamw"`.
        momentum: Momentum of SGD. Defaults to `0.9`.
        learning_rate: Peak learning rate. Defaults to `None`: `1e-3`, or `1e-4` with `weights`.
        base_batch_size: Images per update that `learning_rate` is meant for. The learning rate is
            scaled in proportion to the actual number. Defaults to `None`: no scaling.
        schedule: `"cosine"` decays to a fiftieth of the peak. `"step"` divides the learning rate by
            10 at each milestone. Both begin with a linear warm-up. Defaults to `"cosine"`.
        milestones: For `"step"`, as fractions of all steps. Defaults to `(2 / 3, 8 / 9)`.
        warmup_steps: Updates until the peak learning rate. Defaults to `None`: a twentieth of all.
        weight_decay: Weight decay, multiplied by the learning rate. Defaults to `1e-4`.
        no_decay: Regular expressions. Weights whose path matches one (`re.search`) do not decay.
            Defaults to `()`.
        clip_norm: Maximum global norm of the gradients, or `None`. Defaults to `10.0`.
        ema_momentum: Momentum of a moving average of the weights, which is evaluated and becomes
            the model. Defaults to `None`: no average.
        accumulate_steps: Steps whose gradients are averaged for one update. Defaults to `1`.
        epochs: Epochs to train. Defaults to `None`: 12, or enough for 600 steps if more.
        eval_every: Epochs between evaluations. Defaults to `None`: a fifth of `epochs` (1 with
            `patience`).
        keep: Which weights to keep: those of the evaluation with the `"best"` AP on
            validation images, the last of equals, or of the `"last"` epoch. Defaults to `"best"`.
        patience: Stop after this many evaluations without a better AP. Defaults to `None`: never.
        jit_compile: Whether to compile steps with XLA. Defaults to `False`.
        strategy: One of `STRATEGIES`: the devices to train on. Defaults to `"none"`.
        deterministic: Give equal weights for equal settings, at lower speed. Defaults to `False`.
        seed: Seed of weights, order and augmentation. Defaults to `0`.

    Raises:
        ValueError: If a setting is invalid. The message names it.

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
    detector: str | None = None
    backbone: str | Mapping[str, Any] | None = None
    backbone_weights: str | os.PathLike | None = None
    num_blocks: int | None = None
    channels: int | None = None
    alignment: str | None = None
    start: str | None = None
    use_spatial_attention: bool | None = None
    use_scale_attention: bool | None = None
    use_task_attention: bool | None = None
    head_layers: int | None = None
    max_level: int | None = None
    anchor_scale: float | None = None
    anchor_octaves: int | None = None
    anchor_ratios: tuple[float, ...] | None = None
    dtype: str | None = None
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
        check_types(self)
        paths = ("images", "annotations", "val_images", "val_annotations")
        self._convert(os.fspath, *paths, "backbone_weights", "weights")
        self._convert(tuple, "anchor_ratios", "milestones", "no_decay", "freeze")
        self._convert(lambda canvases: tuple(map(tuple, canvases)), "canvases")
        new = {"learning_rate": 1e-3, **_NEW_MODEL}
        for name, value in (new if self.weights is None else {"learning_rate": 1e-4}).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in _POSITIVE:
            value = getattr(self, name)
            self._check(name, value is None or value > 0, "positive")
        for name in ("num_blocks", "warmup_steps", "weight_decay"):
            self._check(name, (getattr(self, name) or 0) >= 0, "at least 0")
        for name in ("val_split", "momentum", "ema_momentum"):
            self._check(name, 0 <= (getattr(self, name) or 0) < 1, "at least 0 and below 1")
        self._check_data()
        self._check_model()
        times = (0, *self.milestones, 1)
        ascending = len(times) > 2 and sorted(set(times)) == list(times)
        self._check("milestones", ascending, "ascending and between 0 and 1")
        check_patterns("no_decay", self.no_decay)
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        together = self.accumulate_steps == 1 or self.strategy == "none"
        self._check("accumulate_steps", together, f"1 with the strategy {self.strategy!r}")

    def _check_data(self):
        if (self.val_images is None) != (self.val_annotations is None):
            raise ValueError(
                "`val_images` and `val_annotations` must be set together. Received: "
                f"val_images={self.val_images}, val_annotations={self.val_annotations}"
            )
        for one, other in (("val_split", "val_images"), ("image_size", "canvases")):
            values = getattr(self, one), getattr(self, other)
            if all(values):
                raise ValueError(
                    f"`{one}` and `{other}` cannot be combined. "
                    f"Received: {one}={values[0]}, {other}={values[1]}"
                )
        if self.patience is not None and not self.held_out:
            raise ValueError(
                "`patience` needs validation images: `val_images` or `val_split`. "
                f"Received: patience={self.patience}"
            )
        self.build_augmentation()

    def _check_model(self):
        known = self.detector in (None, *DETECTORS) or self.published is not None
        self._check("detector", known, f"one of {list(DETECTORS)} or a published model")
        channels = 16 if self.channels is None else self.channels
        self._check("channels", channels >= 16 and channels % 16 == 0, "a multiple of 16")
        known = set(self.freeze) <= set(PARTS)
        self._check("freeze", known, f"among {PARTS}")
        if self.weights is not None and (given := self._given(_MODEL)):
            raise ValueError(
                f"The model in `weights` cannot be changed. Received: weights="
                f"{self.weights!r} and {given}"
            )
        if self.published is not None and (given := self._given(_PUBLISHED)):
            raise ValueError(
                f"The published model {self.detector!r} fixes {list(given)}. Received: {given}"
            )

    def _convert(self, function, *names):
        for name in names:
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, function(value))

    def _given(self, names):
        """Returns those settings that are not `None`."""
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def _check(self, name, valid, expected):
        check(name, getattr(self, name), valid, expected)

    @property
    def held_out(self) -> bool:
        """Whether the evaluation images differ from the training images."""
        return self.val_images is not None or self.val_split > 0

    @property
    def figure_prefix(self) -> str:
        """Prefix of the COCO metric names in the history."""
        return "val_" if self.held_out else "train_"

    @property
    def published(self) -> PublishedModel | None:
        """The record of the published model, if `detector` names one."""
        return (PUBLISHED | COMPOSED).get(self.detector)

    def build_augmentation(self) -> Augmentation:
        """Returns the augmentation of training images.

        Raises:
            ValueError: If `augmentation` has names that are not arguments of `Augmentation`.
        """
        given = self.augmentation or {}
        known = [field.name for field in dataclasses.fields(Augmentation)]
        unknown = sorted(set(given).difference(known))
        if unknown:
            raise ValueError(f"`augmentation` must only have keys of {known}. Received: {unknown}")
        return Augmentation(**given)

    def scaled(self, steps: int) -> dict[str, float | int | list[int]]:
        """Returns the values that follow from the optimizer's settings for a number of steps.

        Args:
            steps: Steps of the whole run. With `accumulate_steps`, several make one update.

        Returns:
            `images_per_update`, `peak_learning_rate`, `warmup_steps` and, with `schedule="step"`,
            `milestone_steps`, the first steps at each lower rate, counted from 0.

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
