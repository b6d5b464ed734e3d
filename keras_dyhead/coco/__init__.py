"""COCO annotations as `tf.data`, and COCO evaluation of any Keras detector."""

from keras_dyhead.checkpoints.coco_classes import COCO_CLASSES
from keras_dyhead.coco.annotations import CocoAnnotations, CocoImage
from keras_dyhead.coco.augmentation import Augmentation
from keras_dyhead.coco.checks import Problem
from keras_dyhead.coco.dataset import load_coco
from keras_dyhead.coco.detections import detection_array, write_detections
from keras_dyhead.coco.evaluation import CocoEvaluation, evaluate_coco
from keras_dyhead.coco.metrics import METRIC_NAMES, CocoResult, coco_metrics
from keras_dyhead.coco.shapes import SHAPES, draw_shapes

__all__ = [
    "COCO_CLASSES",
    "METRIC_NAMES",
    "SHAPES",
    "Augmentation",
    "CocoAnnotations",
    "CocoEvaluation",
    "CocoImage",
    "CocoResult",
    "Problem",
    "coco_metrics",
    "detection_array",
    "draw_shapes",
    "evaluate_coco",
    "load_coco",
    "write_detections",
]
