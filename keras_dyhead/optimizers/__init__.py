"""The optimizer and the schedule of the published trainings, which Keras lacks."""

from keras_dyhead.optimizers.sgd import RegularizedSGD, is_named
from keras_dyhead.optimizers.warmup import LinearWarmup

__all__ = ["LinearWarmup", "RegularizedSGD", "is_named"]
