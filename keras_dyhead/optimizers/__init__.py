"""The optimizer and learning rate schedule of published training runs, which Keras lacks."""

from keras_dyhead.optimizers.sgd import RegularizedSGD
from keras_dyhead.optimizers.warmup import LinearWarmup

__all__ = ["LinearWarmup", "RegularizedSGD"]
