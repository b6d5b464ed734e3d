"""Initial weights of a block: near the identity, or as released.

A block has no skip connection. As released, each block hides what the backbone has learned behind
three random convolutions of equal weight and a ReLU. Near the identity, a block passes each level
on almost unchanged from the first step: the level's own kernel (`mid`) is the identity plus a
little noise, the maps of the neighboring levels are small, and the dynamic ReLU is nearly linear.

The size of the values matters, too. As released, they are an eighth as large as those of a feature
pyramid. An optimizer like Adam takes steps of one size, so predictions learn from them that much
more slowly. Near the identity, normalizations therefore scale by eight. Offsets and mask logits are
divided by eight in turn, so that they are as large as released, and one step of the optimizer moves
a sampling point no further.
"""

import keras
from keras import ops

from keras_dyhead.layers.deform_conv2d import uniform_fan_in

STARTS = ("identity", "released")
NOISE = 0.1
"""Fraction of the released random kernel that is added to the identity."""
SCALE = 8.0
"""Scale of the level's own map. A power of two, so that converting weights does not round."""
NEIGHBORS = 0.3
"""Scale of the neighboring levels' maps, relative to the level's own."""
SECOND_SLOPE = 0.9
"""Slope of the dynamic ReLU for negative values. For positive values it is 1."""


def initial_branch(branch: str, start: str) -> tuple[keras.initializers.Initializer, float]:
    """Returns a branch's initial kernel, and the initial scale of its normalization."""
    if start == "released":
        return uniform_fan_in(), 1.0
    if branch == "mid":
        return NearIdentity(), SCALE
    return uniform_fan_in(), NEIGHBORS * SCALE


class NearIdentity(keras.initializers.Initializer):
    """A convolution kernel that returns its input plus a little noise.

    With more filters than channels, the extra filters are noise. With fewer, the extra channels are
    dropped.
    """

    def __call__(self, shape, dtype=None):
        kernel = NOISE * uniform_fan_in()(shape, dtype)
        height, width, *channels = shape
        tap = ops.reshape(ops.arange(height * width) == height * width // 2, (height, width, 1, 1))
        return kernel + ops.cast(tap, kernel.dtype) * ops.eye(*channels, dtype=kernel.dtype)
