"""COCO annotations as `tf.data`, and COCO evaluation of any Keras detector."""

from keras_dyhead.coco.annotations import CocoAnnotations, CocoImage
from keras_dyhead.coco.augmentation import Augmentation
from keras_dyhead.coco.class_names import COCO_CLASSES
from keras_dyhead.coco.coco_evaluation import CocoEvaluation
from keras_dyhead.coco.dataset import load_coco
from keras_dyhead.coco.detections import detection_array
from keras_dyhead.coco.evaluation import coco_results, evaluate_coco
from keras_dyhead.coco.metrics import METRIC_NAMES, coco_metrics
from keras_dyhead.coco.problems import Problem
from keras_dyhead.coco.tensorboard import log_coco

__all__ = [
    "COCO_CLASSES",
    "METRIC_NAMES",
    "Augmentation",
    "CocoAnnotations",
    "CocoEvaluation",
    "CocoImage",
    "Problem",
    "coco_metrics",
    "coco_results",
    "detection_array",
    "evaluate_coco",
    "load_coco",
    "log_coco",
]
