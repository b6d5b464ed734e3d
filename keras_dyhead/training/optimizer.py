"""Builds the optimizer that the training settings describe."""

from collections.abc import Sequence

import keras

from keras_dyhead.optimizers import LinearWarmup, RegularizedSGD
from keras_dyhead.optimizers.sgd import is_named
from keras_dyhead.training.settings import TrainingSettings


def build_schedule(
    settings: TrainingSettings, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns the learning rate schedule of the whole training run."""
    scaled = settings.scaled(steps)
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
        [step - 1 for step in scaled["milestone_steps"]],  # Keras wants the last step before each
        [peak * 0.1**lowered for lowered in range(len(settings.milestones) + 1)],
    )
    return LinearWarmup(schedule, warmup) if warmup else schedule


def build_optimizer(
    settings: TrainingSettings, variables: Sequence[keras.Variable], steps: int
) -> keras.optimizers.Optimizer:
    """Returns the optimizer that trains some variables for a whole training run."""
    shared = {
        "learning_rate": build_schedule(settings, steps),
        "global_clipnorm": settings.clip_norm,
    }
    if settings.ema_momentum is not None:
        # Keras updates the average in every step, even in those that only accumulate gradients.
        momentum = settings.ema_momentum ** (1 / settings.accumulate_steps)
        shared |= {"use_ema": True, "ema_momentum": momentum}
    if settings.accumulate_steps > 1:
        shared["gradient_accumulation_steps"] = settings.accumulate_steps
    if settings.optimizer == "sgd":
        return RegularizedSGD(
            momentum=settings.momentum, l2=settings.weight_decay, no_l2=settings.no_decay, **shared
        )
    optimizer = keras.optimizers.AdamW(weight_decay=settings.weight_decay, epsilon=1e-8, **shared)
    optimizer.exclude_from_weight_decay(
        [variable for variable in variables if is_named(variable, settings.no_decay)]
    )
    return optimizer
