"""The whole road from a COCO data set to a served detector: what the command line runs."""

from keras_dyhead.training.checkpoint import EpochCheckpoint
from keras_dyhead.training.config import planned_config
from keras_dyhead.training.data import DataSettings
from keras_dyhead.training.demo import demo_training
from keras_dyhead.training.model import ModelSettings
from keras_dyhead.training.optimizer import OptimizerSettings
from keras_dyhead.training.overrides import merge_settings, parse_overrides
from keras_dyhead.training.results import check_serving, write_results
from keras_dyhead.training.run import Training
from keras_dyhead.training.settings import TrainingSettings, build_detector

__all__ = [
    "DataSettings",
    "EpochCheckpoint",
    "ModelSettings",
    "OptimizerSettings",
    "Training",
    "TrainingSettings",
    "build_detector",
    "check_serving",
    "demo_training",
    "merge_settings",
    "parse_overrides",
    "planned_config",
    "write_results",
]
