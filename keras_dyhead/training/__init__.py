"""Training from a COCO dataset to an exported detector. The command line runs this package."""

# ruff: noqa: E402 (the check for TensorFlow comes before the imports that need it)

from keras_dyhead.needs import need_tensorflow

need_tensorflow("keras_dyhead.training")

from keras_dyhead.training.results import check_serving
from keras_dyhead.training.run import Training
from keras_dyhead.training.settings import TrainingSettings
from keras_dyhead.training.strategy import make_strategy, synchronize_batch_norm

__all__ = [
    "Training",
    "TrainingSettings",
    "check_serving",
    "make_strategy",
    "synchronize_batch_norm",
]
