"""Layers that compute in at least float32 under every dtype policy."""

import keras

from keras_dyhead.ops.arguments import at_least_float32


class _FullPrecision:
    """Keeps weights from being cast to the lower precision of the layer that reads them.

    Keras casts a weight to the dtype of the running layer, even if it belongs to another layer.
    """

    def __init__(self, *args, dtype, **kwargs):
        super().__init__(*args, dtype=at_least_float32(dtype), **kwargs)

    def add_weight(self, *args, **kwargs):
        return super().add_weight(*args, autocast=False, **kwargs)


class FullPrecisionDense(_FullPrecision, keras.layers.Dense):
    """`keras.layers.Dense` in float32, or in `dtype` if that is wider."""


class FullPrecisionConv2D(_FullPrecision, keras.layers.Conv2D):
    """`keras.layers.Conv2D` in float32, or in `dtype` if that is wider."""
