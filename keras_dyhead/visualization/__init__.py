"""Pictures of what a detector sees and how it learned."""

from keras_dyhead.visualization.detections import plot_detections
from keras_dyhead.visualization.history import plot_history

__all__ = ["plot_detections", "plot_history"]
