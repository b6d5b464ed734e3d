"""Pure functions on tensors."""

from keras_dyhead.ops.deform_conv import deform_conv2d
from keras_dyhead.ops.resize import resize_align_corners

__all__ = ["deform_conv2d", "resize_align_corners"]
