"""Published PyTorch weights -> Keras."""

from keras_dyhead.checkpoints.tower import load_tower

__all__ = ["load_tower"]
