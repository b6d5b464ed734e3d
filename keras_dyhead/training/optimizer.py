"""How weights are updated: the settings, and the optimizer that follows from them."""

import dataclasses
import re
from collections.abc import Sequence

import keras

from keras_dyhead.optimizers import LinearWarmup, RatedAdamW, RegularizedSGD, is_named

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "step")


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """How the weights of a detector are updated.

    Args:
        optimizer: `"adamw"`, or `"sgd"`, see `RegularizedSGD`. Defaults to `"adamw"`.
        momentum: Of SGD. Defaults to `0.9`.
        learning_rate: Peak of the schedule. Defaults to `1e-3`.
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
        offset_rate: Of AdamW: what part of the learning rate the convolutions have that say where
            DyHead samples, and how much each sample counts. Defaults to `None`: in a training 0.1,
            or 1 as published.
        clip_norm: Largest norm of the gradient of all weights, or `None`. Defaults to `10.0`.
        ema_momentum: Keeps a moving average of the weights, which is what is evaluated and saved in
            the end: the part of it that an update leaves. Defaults to `None`, no average.
        accumulate_steps: Steps whose gradients are averaged for one update. Defaults to `1`.

    Example:

    >>> settings = OptimizerSettings("sgd", learning_rate=0.02, base_batch_size=16)
    >>> settings.scaled(batch_size=8, steps=1000)["peak_learning_rate"]
    0.01
    """

    optimizer: str = "adamw"
    momentum: float = 0.9
    learning_rate: float = 1e-3
    base_batch_size: int | None = None
    schedule: str = "cosine"
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)
    warmup_steps: int | None = None
    weight_decay: float = 1e-4
    no_decay: tuple[str, ...] = ()
    offset_rate: float | None = None
    clip_norm: float | None = 10.0
    ema_momentum: float | None = None
    accumulate_steps: int = 1

    def __post_init__(self):
        for name in ("milestones", "no_decay"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check(self, "optimizer", self.optimizer in OPTIMIZERS, f"one of {OPTIMIZERS}")
        check(self, "schedule", self.schedule in SCHEDULES, f"one of {SCHEDULES}")
        for name in (
            *("learning_rate", "base_batch_size"),
            *("offset_rate", "clip_norm", "accumulate_steps"),
        ):
            value = getattr(self, name)
            check(self, name, value is None or value > 0, "positive")
        check(self, "warmup_steps", (self.warmup_steps or 0) >= 0, "at least 0")
        check(self, "weight_decay", self.weight_decay >= 0, "at least 0")
        check(self, "momentum", 0 <= self.momentum < 1, "from 0 to below 1")
        check(self, "ema_momentum", 0 <= (self.ema_momentum or 0) < 1, "from 0 to below 1")
        times = (0, *self.milestones, 1)
        ascending = len(times) > 2 and sorted(set(times)) == list(times)
        check(self, "milestones", ascending, "ascending, between 0 and 1")
        for pattern in self.no_decay:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"`no_decay` must hold regular expressions. Received: {pattern!r} ({error})"
                ) from None

    def scaled(self, batch_size: int, steps: int) -> dict[str, float | int | list[int]]:
        """Returns what the settings amount to in a training.

        Args:
            batch_size: Images per step, on all devices together.
            steps: Steps of the whole training; several make one update with `accumulate_steps`.

        Returns:
            `images_per_update`, `peak_learning_rate`, and in steps, counted from 0: `warmup_steps`
            and, with `schedule="step"`, `milestone_steps`, the first ones at a lower rate.
        """
        images = batch_size * self.accumulate_steps
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


def check(settings, name: str, valid: bool, expected: str) -> None:
    """Raises a `ValueError` that shows a field of settings, unless it is valid."""
    if not valid:
        raise ValueError(
            f"`{name}` must be {expected}. Received: {name}={getattr(settings, name)!r}"
        )


def build_schedule(
    settings: OptimizerSettings, batch_size: int, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns the learning rate as a function of the step.

    Args:
        settings: The settings.
        batch_size: See `OptimizerSettings.scaled`, like the next.
        steps: Steps of the whole training.
    """
    scaled = settings.scaled(batch_size, steps)
    peak, warmup = scaled["peak_learning_rate"], scaled["warmup_steps"]
    if settings.schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=peak / 100 if warmup else peak,
            warmup_target=peak if warmup else None,
            warmup_steps=warmup,
            decay_steps=max(1, steps - warmup),
            alpha=0.02,
        )
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [step - 1 for step in scaled["milestone_steps"]],  # Keras wants the last ones before
        [peak * 0.1**lowered for lowered in range(len(settings.milestones) + 1)],
    )
    return LinearWarmup(schedule, warmup) if warmup else schedule


def build_optimizer(
    settings: OptimizerSettings, variables: Sequence[keras.Variable], batch_size: int, steps: int
) -> keras.optimizers.Optimizer:
    """Returns the optimizer of a training.

    Args:
        settings: The settings.
        variables: The weights to train.
        batch_size: See `OptimizerSettings.scaled`, like the next.
        steps: Steps of the whole training.
    """
    shared = {
        "learning_rate": build_schedule(settings, batch_size, steps),
        "global_clipnorm": settings.clip_norm,
    }
    if settings.ema_momentum is not None:
        # Keras moves the average in every step, also in those that only accumulate gradients.
        momentum = settings.ema_momentum ** (1 / settings.accumulate_steps)
        shared |= {"use_ema": True, "ema_momentum": momentum}
    if settings.accumulate_steps > 1:
        shared["gradient_accumulation_steps"] = settings.accumulate_steps
    if settings.optimizer == "sgd":
        return RegularizedSGD(
            momentum=settings.momentum, l2=settings.weight_decay, no_l2=settings.no_decay, **shared
        )
    if settings.offset_rate is not None:
        shared["rates"] = {"spatial_attention/offset_conv": settings.offset_rate}
    optimizer = RatedAdamW(weight_decay=settings.weight_decay, epsilon=1e-8, **shared)
    optimizer.exclude_from_weight_decay(
        [variable for variable in variables if is_named(variable, settings.no_decay)]
    )
    return optimizer
