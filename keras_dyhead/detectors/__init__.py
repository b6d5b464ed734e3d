"""Detectors: one class per detector, and their building blocks."""

from keras_dyhead.detectors.assigners import Assigner, ATSSAssigner, FCOSAssigner, MaxIoUAssigner
from keras_dyhead.detectors.atss import ATSS
from keras_dyhead.detectors.decoding import DetectionDecoder
from keras_dyhead.detectors.dense_detector import DenseDetector
from keras_dyhead.detectors.detector import Detector
from keras_dyhead.detectors.faster_rcnn import FasterRCNN
from keras_dyhead.detectors.fcos import FCOS
from keras_dyhead.detectors.locations import AnchorGenerator
from keras_dyhead.detectors.losses import giou_loss, iou_loss, sigmoid_focal_loss, smooth_l1_loss
from keras_dyhead.detectors.prediction_head import PredictionHead
from keras_dyhead.detectors.preprocessor import DetectionPreprocessor
from keras_dyhead.detectors.proposals import ProposalSelector, RandomSampler
from keras_dyhead.detectors.region_pooler import RegionPooler
from keras_dyhead.detectors.reppoints import RepPoints
from keras_dyhead.detectors.retinanet import RetinaNet

DETECTORS = {
    "atss": ATSS,
    "faster-rcnn": FasterRCNN,
    "fcos": FCOS,
    "reppoints": RepPoints,
    "retinanet": RetinaNet,
}
"""The detectors by their names in settings, recipes and command lines."""

__all__ = [
    "ATSS",
    "ATSSAssigner",
    "AnchorGenerator",
    "Assigner",
    "DETECTORS",
    "DenseDetector",
    "DetectionDecoder",
    "DetectionPreprocessor",
    "Detector",
    "FCOS",
    "FCOSAssigner",
    "FasterRCNN",
    "MaxIoUAssigner",
    "PredictionHead",
    "ProposalSelector",
    "RandomSampler",
    "RegionPooler",
    "RepPoints",
    "RetinaNet",
    "giou_loss",
    "iou_loss",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
]
