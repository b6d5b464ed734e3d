"""Pictures of what a detector sees and how it learned."""

from keras_dyhead.visualization.detections import plot_detections
from keras_dyhead.visualization.history import plot_history
from keras_dyhead.visualization.pictures import draw_detections, unique_stems

__all__ = ["draw_detections", "plot_detections", "plot_history", "unique_stems"]
