"""Plots of attention, sampling points, detections and training."""

from keras_dyhead.visualization.attention import plot_attention
from keras_dyhead.visualization.detections import plot_detections
from keras_dyhead.visualization.evaluation import (
    confusion_matrix,
    plot_confusion,
    plot_precision_recall,
)
from keras_dyhead.visualization.pictures import draw_detections
from keras_dyhead.visualization.report import write_report
from keras_dyhead.visualization.sampling import plot_sampling
from keras_dyhead.visualization.scale_weights import plot_scale_weights
from keras_dyhead.visualization.tensorboard import TensorBoardLog

__all__ = [
    "TensorBoardLog",
    "confusion_matrix",
    "draw_detections",
    "plot_attention",
    "plot_confusion",
    "plot_detections",
    "plot_precision_recall",
    "plot_sampling",
    "plot_scale_weights",
    "write_report",
]
