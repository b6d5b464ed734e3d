"""Training from a COCO dataset to an exported detector. The command line runs this package."""

# ruff: noqa: E402 (the check for TensorFlow comes before the imports that need it)

from keras_dyhead.needs import need_tensorflow

need_tensorflow("keras_dyhead.training")

from keras_dyhead.training.checkpoint import EpochCheckpoint
from keras_dyhead.training.demo import demo_training
from keras_dyhead.training.model import build_detector
from keras_dyhead.training.optimizer import build_optimizer
from keras_dyhead.training.overrides import merge_settings, parse_overrides
from keras_dyhead.training.plan import planned_config, resolve_settings
from keras_dyhead.training.results import check_serving, write_results
from keras_dyhead.training.run import Training
from keras_dyhead.training.settings import TrainingSettings
from keras_dyhead.training.strategy import make_strategy, synchronize_batch_norm

__all__ = [
    "EpochCheckpoint",
    "Training",
    "TrainingSettings",
    "build_detector",
    "build_optimizer",
    "check_serving",
    "demo_training",
    "make_strategy",
    "merge_settings",
    "parse_overrides",
    "planned_config",
    "resolve_settings",
    "synchronize_batch_norm",
    "write_results",
]
