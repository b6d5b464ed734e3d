"""The three attentions, the block and neck built from them, and other Keras layers."""

from keras_dyhead.layers.deform_conv2d import DeformConv2D
from keras_dyhead.layers.dyhead_block import DyHeadBlock
from keras_dyhead.layers.dyhead_neck import DyHeadNeck
from keras_dyhead.layers.feature_pyramid import FeaturePyramid
from keras_dyhead.layers.scale_attention import ScaleAwareAttention
from keras_dyhead.layers.spatial_attention import SpatialAwareAttention
from keras_dyhead.layers.task_attention import TaskAwareAttention

__all__ = [
    "DeformConv2D",
    "DyHeadBlock",
    "DyHeadNeck",
    "FeaturePyramid",
    "ScaleAwareAttention",
    "SpatialAwareAttention",
    "TaskAwareAttention",
]
