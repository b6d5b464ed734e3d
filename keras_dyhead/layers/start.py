"""Where the weights of a block start: near the identity, or as released.

A block has no skip connection. As released, it hides what the backbone has learned behind three
random convolutions of equal weight and a ReLU, as many times as there are blocks. Started near the
identity, a block passes its level on, almost unchanged, from the first step: the level's own kernel
(`mid`) is the identity plus a little noise, the maps of the neighboring levels are small, and the
dynamic ReLU is nearly linear.

Maps have a size, too. As released they are an eighth as large as those of a feature pyramid, and
predictions learn from them as much more slowly by an optimizer like Adam, whose steps have one
size. Near the identity the normalizations start eight times as large. Offsets and masks then count
an eighth of what their convolution gives: they see maps of the released size, and a step moves a
sampling point no further than it does there.
"""

import keras
from keras import ops

from keras_dyhead.layers.deform_conv2d import uniform_fan_in

STARTS = ("identity", "released")
NOISE = 0.1
"""Part of the released random kernel that the identity is given."""
SCALE = 8.0
"""Scale of the level's own map; a power of two, so that weights convert without rounding."""
NEIGHBOURS = 0.3
"""Scale of the neighboring levels' maps, relative to the level's own."""
SECOND_SLOPE = 0.9
"""Slope of the dynamic ReLU on negative values; on positive values it is 1."""


def check_start(start: str) -> str:
    """Returns `start` if it is one of `STARTS`, else raises a `ValueError`."""
    if start not in STARTS:
        raise ValueError(f"`start` must be one of {STARTS}. Received: start={start!r}")
    return start


class NearIdentity(keras.initializers.Initializer):
    """A convolution's kernel that returns its input, plus a little noise.

    With more filters than channels, the further filters are noise; with fewer, the further channels
    are left out.
    """

    def __call__(self, shape, dtype=None):
        kernel = NOISE * uniform_fan_in()(shape, dtype)
        height, width, *channels = shape
        tap = ops.reshape(ops.arange(height * width) == height * width // 2, (height, width, 1, 1))
        return kernel + ops.cast(tap, kernel.dtype) * ops.eye(*channels, dtype=kernel.dtype)


class SecondSlope(keras.initializers.Initializer):
    """Biases of the coefficients a1, b1, a2, b2 of the dynamic ReLU, with which a2 is 0.9."""

    def __call__(self, shape, dtype=None):
        # a2 is 2 (hard_sigmoid(bias) - 0.5), which is bias / 3.
        a1, b1, a2, b2 = ops.split(ops.zeros(shape, dtype), 4)
        return ops.concatenate([a1, b1, a2 + 3 * SECOND_SLOPE, b2])
