"""Maps that are known up to a factor and a shift of each channel, so that pixels are read once.

Group normalization, scale- and task-aware attention all multiply a map by one number per image and
channel and add another; the numbers depend on means and variances only. So they can be worked out
first, on tensors of shape `(B, C)`, and applied to the pixels together. With `x` a convolved map:

    normalized  y = scale * x + shift                          scale = gamma / sqrt(var + eps)
    weighed     z = sum_i g_i * y_i = sum_i (g_i * scale_i) * x_i + sum_i g_i * shift_i
    rectified   max(a1 * z + b1, a2 * z + b2)

`g_i` needs the mean of `y_i`, which is `scale_i * mean(x_i) + shift_i`; the a's and b's need the
mean of `z`, which is the sum of `g_i * mean(y_i)`. So `x` is read once for its mean and variance,
and once for the result; `y` and `z` never exist. Their gradients need `x` alone, too: what lies
between is computed again (`keras.remat`) instead of kept.
"""

import keras
from keras import ops

from keras_dyhead.ops.arguments import at_least_float32
from keras_dyhead.ops.resize import resize_align_corners


class AffineMap:
    """A map `values * scale + shift`, not yet computed.

    Args:
        values: `(B, H, W, C)`.
        scale: `(B, C)`.
        shift: `(B, C)`.
        mean: `(B, C)`: mean of the whole map over the pixels, after the resizing.
        size: (height, width) to resize the map to, or `None`: as it is.
    """

    def __init__(self, values, scale, shift, mean, size=None):
        self.values, self.scale, self.shift, self.mean, self.size = values, scale, shift, mean, size

    def compute(self):
        """Returns the map."""
        values = _fit(self.values, self.size)
        return values * _per_pixel(self.scale, values) + _per_pixel(self.shift, values)


class WeighedSum:
    """A sum of maps, each times a number per image, not yet computed.

    Args:
        maps: List of `AffineMap` that have one size.
        weights: List of tensors `(B, 1)`, or of numbers.
    """

    def __init__(self, maps, weights):
        pairs = list(zip(maps, weights, strict=True))
        self.maps = maps
        self.scales = [x.scale * weight for x, weight in pairs]
        self.shift = sum(x.shift * weight for x, weight in pairs)
        self.mean = sum(x.mean * weight for x, weight in pairs)

    def relu(self):
        """Returns the map after a ReLU."""
        return self._over_pixels(lambda z, shift: ops.relu(z + _per_pixel(shift, z)), [self.shift])

    def larger_line(self, a1, b1, a2, b2):
        """Returns `max(a1 * z + b1, a2 * z + b2)` of the map `z`; coefficients are `(B, C)`."""

        def maximum(z, *lines):
            a1, b1, a2, b2 = (_per_pixel(x, z) for x in lines)
            return ops.cast(ops.maximum(z * a1 + b1, z * a2 + b2), z.dtype)

        return self._over_pixels(maximum, [a1, a1 * self.shift + b1, a2, a2 * self.shift + b2])

    def _over_pixels(self, function, coefficients):
        """Calls `function(sum of the maps without their shifts, *coefficients)`."""
        count = len(self.maps)

        def compute(*tensors):
            values, scales, rest = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
            values = [_fit(x, y.size) for x, y in zip(values, self.maps, strict=True)]
            terms = zip(values, scales, strict=True)
            return function(sum(x * _per_pixel(scale, x) for x, scale in terms), *rest)

        values = [x.values for x in self.maps]
        return keras.remat(compute)(*values, *self.scales, *coefficients)


def global_mean(inputs):
    """Mean of `(B, H, W, C)` over the pixels: `(B, C)`, at least float32."""
    return ops.mean(ops.cast(inputs, at_least_float32(inputs.dtype)), axis=(1, 2))


def _fit(values, size):
    return values if size is None else resize_align_corners(values, size)


def _per_pixel(coefficients, values):
    """`(B, C)` as `(B, 1, 1, C)` of the dtype of `values`."""
    return ops.cast(coefficients, values.dtype)[:, None, None]
