"""Loads published PyTorch weights into Keras models."""

from keras_dyhead.checkpoints.backbone_weights import load_backbone_weights
from keras_dyhead.checkpoints.fetch import fetch_checkpoint
from keras_dyhead.checkpoints.load_checkpoint import load_checkpoint, load_detector
from keras_dyhead.checkpoints.published import COMPOSED, PUBLISHED, PublishedModel
from keras_dyhead.checkpoints.state_dict import read_state_dict
from keras_dyhead.checkpoints.tower import load_tower

__all__ = [
    "COMPOSED",
    "PUBLISHED",
    "PublishedModel",
    "fetch_checkpoint",
    "load_backbone_weights",
    "load_checkpoint",
    "load_detector",
    "load_tower",
    "read_state_dict",
]
