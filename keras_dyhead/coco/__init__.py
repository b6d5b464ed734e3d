"""COCO annotations as `tf.data` or NumPy batches, and COCO evaluation of any Keras detector.

`load_coco` and `Augmentation` need TensorFlow; nothing else does.
"""

from typing import TYPE_CHECKING

from keras_dyhead.checkpoints.coco_classes import COCO_CLASSES
from keras_dyhead.coco.annotations import CocoAnnotations, CocoImage
from keras_dyhead.coco.batches import CocoDataset
from keras_dyhead.coco.checks import Problem
from keras_dyhead.coco.detections import detection_array, write_detections
from keras_dyhead.coco.evaluation import CocoEvaluation, evaluate_coco
from keras_dyhead.coco.metrics import METRIC_NAMES, CocoResult, coco_metrics
from keras_dyhead.coco.shapes import SHAPES, draw_shapes
from keras_dyhead.needs import has_tensorflow, need_tensorflow

if TYPE_CHECKING:
    from keras_dyhead.coco.augmentation import Augmentation
    from keras_dyhead.coco.dataset import load_coco

__all__ = [
    "COCO_CLASSES",
    "METRIC_NAMES",
    "SHAPES",
    "CocoAnnotations",
    "CocoDataset",
    "CocoEvaluation",
    "CocoImage",
    "CocoResult",
    "Problem",
    "coco_metrics",
    "detection_array",
    "draw_shapes",
    "evaluate_coco",
    "write_detections",
]
if has_tensorflow():
    __all__ += ["Augmentation", "load_coco"]


if not TYPE_CHECKING:  # type checkers would accept any name

    def __getattr__(name: str):
        if name not in ("Augmentation", "load_coco"):
            raise AttributeError(f"module 'keras_dyhead.coco' has no attribute {name!r}")
        need_tensorflow(f"keras_dyhead.coco.{name}")
        from keras_dyhead.coco import augmentation, dataset

        return augmentation.Augmentation if name == "Augmentation" else dataset.load_coco
