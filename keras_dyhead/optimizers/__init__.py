"""Optimizers and the schedule of the published trainings, and AdamW with rates by names."""

from keras_dyhead.optimizers.adamw import RatedAdamW
from keras_dyhead.optimizers.sgd import RegularizedSGD, is_named
from keras_dyhead.optimizers.warmup import LinearWarmup

__all__ = ["LinearWarmup", "RatedAdamW", "RegularizedSGD", "is_named"]
