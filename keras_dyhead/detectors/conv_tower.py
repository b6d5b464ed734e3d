"""The convolutions in the heads of dense detectors."""

import math

import keras
from keras import ops

from keras_dyhead.ops.rows import MapRows


def conv_tower(branch: str, num_convs: int, channels: int, use_group_norm: bool, dtype) -> list:
    """Builds the layers between DyHead and a prediction: 3x3 convolutions with ReLU.

    Names begin with `branch`. `use_group_norm` replaces the bias with normalization in groups of 8
    channels (32 groups of 256). The scale of a normalized kernel only affects how much a step
    changes it, so these kernels use the initialization of He et al. (ICCV 2015). All others start
    with a standard deviation of 0.01, as in the reference implementations.
    """
    layers = []
    for i in range(num_convs):
        conv = head_conv(channels, 3, f"{branch}_conv_{i}", dtype)
        conv.use_bias = not use_group_norm
        layers.append(conv)
        if use_group_norm:
            conv.kernel_initializer = keras.initializers.HeNormal()
            norm = keras.layers.GroupNormalization(
                max(1, channels // 8), epsilon=1e-5, dtype=dtype, name=f"{branch}_norm_{i}"
            )
            layers.append(norm)
        layers.append(keras.layers.ReLU(dtype=dtype, name=f"{branch}_relu_{i}"))
    for layer in layers:
        layer.build((None, None, None, channels))
    return layers


def apply_tower(layers, x):
    """Applies the layers of a tower in sequence."""
    for layer in layers:
        x = layer(x)
    return x


def flat_outputs(maps, width: int):
    """Joins maps `(B, H, W, anchors * width)` of all levels into `(B, A, width)` float32."""
    rows = MapRows([ops.cast(x, "float32") for x in maps]).values
    return ops.reshape(rows, (-1, ops.shape(rows)[1] * (rows.shape[2] // width), width))


class HeadConv2D(keras.layers.Conv2D):
    """A convolution whose single filter also has a gradient on PyTorch."""

    def convolution_op(self, inputs, kernel):
        """Convolves. PyTorch on CPUs has no gradient for one filter and one small image."""
        if self.filters > 1 or keras.backend.backend() != "torch":
            return super().convolution_op(inputs, kernel)
        kernel = ops.pad(kernel, [(0, 0)] * 3 + [(0, 1)])
        return super().convolution_op(inputs, kernel)[..., :1]


def head_conv(filters: int, kernel_size: int, name: str, dtype) -> HeadConv2D:
    """Returns a convolution with the initialization of dense heads."""
    return HeadConv2D(
        filters,
        kernel_size,
        padding="same",
        data_format="channels_last",
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        name=name,
        dtype=dtype,
    )


def prior_bias() -> keras.initializers.Initializer:
    """Initializes the sigmoid of class logits to the prior probability 0.01."""
    return keras.initializers.Constant(-math.log(0.99 / 0.01))
