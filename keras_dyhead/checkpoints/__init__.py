"""Published PyTorch weights -> Keras."""

from keras_dyhead.checkpoints.backbone_weights import load_backbone_weights
from keras_dyhead.checkpoints.state_dict import read_state_dict
from keras_dyhead.checkpoints.tower import load_tower

__all__ = ["load_backbone_weights", "load_tower", "read_state_dict"]
