"""Maps known up to a scale and a shift per channel, so that pixels are read only once.

Group normalization, scale-aware and task-aware attention multiply each channel of an image by one
number and add another. These numbers depend only on means and variances. So they can be computed
first, on tensors of shape `(B, C)`, and applied to the pixels together. For convolved maps `x_i`:

    normalized  y_i = scale_i * x_i + shift_i          scale_i = gamma_i / sqrt(var_i + eps)
    weighted    z = sum_i g_i * y_i = sum_i (g_i * scale_i) * x_i + sum_i g_i * shift_i
    rectified   max(a1 * z + b1, a2 * z + b2)

`g_i` needs the mean of `y_i`, which is `scale_i * mean(x_i) + shift_i`. The a's and b's need the
mean of `z`, which is the sum of `g_i * mean(y_i)`. So `x_i` is read once for its mean and variance,
and once for the result; `y_i` and `z` are never stored. Gradients need only `x_i`, too:
intermediate results are recomputed (`keras.remat`).
"""

import keras
from keras import ops

from keras_dyhead.ops.arguments import at_least_float32
from keras_dyhead.ops.resize import mean_after_resize, resize_align_corners

EPSILON = 1e-5  # of the group normalization


class AffineMap:
    """A map `values * scale + shift`, not yet computed.

    Args:
        values: `(B, H, W, C)`.
        scale: `(B, C)`.
        shift: `(B, C)`.
        mean: `(B, C)`: mean of the resized map over its pixels.
        size: (height, width) to resize the map to, or `None` to keep its size.
    """

    def __init__(self, values, scale, shift, mean, size=None):
        self.values, self.scale, self.shift, self.mean, self.size = values, scale, shift, mean, size

    def compute(self):
        """Returns the map."""
        values = _fit(self.values, self.size)
        return values * _per_pixel(self.scale, values) + _per_pixel(self.shift, values)


class WeightedSum:
    """A weighted sum of maps, not yet computed.

    Args:
        maps: List of `AffineMap` of the same size.
        weights: List of tensors `(B, 1)`, one weight per image, or of numbers.
    """

    def __init__(self, maps, weights):
        pairs = list(zip(maps, weights, strict=True))
        self.maps = maps
        self.scales = [x.scale * weight for x, weight in pairs]
        self.shift = sum(x.shift * weight for x, weight in pairs)
        self.mean = sum(x.mean * weight for x, weight in pairs)

    def relu(self):
        """Returns the sum after a ReLU."""
        return self._over_pixels(lambda z, shift: ops.relu(z + _per_pixel(shift, z)), [self.shift])

    def dynamic_relu(self, a1, b1, a2, b2):
        """Returns `max(a1 * z + b1, a2 * z + b2)` for the sum `z`; coefficients are `(B, C)`."""

        def maximum(z, *lines):
            a1, b1, a2, b2 = (_per_pixel(x, z) for x in lines)
            return ops.cast(ops.maximum(z * a1 + b1, z * a2 + b2), z.dtype)

        return self._over_pixels(maximum, [a1, a1 * self.shift + b1, a2, a2 * self.shift + b2])

    def _over_pixels(self, function, coefficients):
        """Calls `function(weighted sum of the maps without their shifts, *coefficients)`."""
        count = len(self.maps)

        def compute(*tensors):
            values, scales, rest = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
            values = [_fit(x, y.size) for x, y in zip(values, self.maps, strict=True)]
            terms = zip(values, scales, strict=True)
            return function(sum(x * _per_pixel(scale, x) for x, scale in terms), *rest)

        values = [x.values for x in self.maps]
        return keras.remat(compute)(*values, *self.scales, *coefficients)


def group_normalize(maps, groups, gamma, beta, bias=None, sizes=None) -> list[AffineMap]:
    """Normalizes the convolved maps of several levels, then resizes them.

    Args:
        maps: List of `(B, H_l, W_l, C)`.
        groups: Number of groups of channels.
        gamma: `(C,)`: scale after the normalization.
        beta: `(C,)`: shift after the normalization.
        bias: `(C,)` or `None`: bias of the convolution. It is added here: it shifts the means of
            channels, whose distance from the mean of their group adds to the group's variance.
        sizes: (height, width) to resize each map to, or `None`.
    """
    if not maps:
        return []
    channels = maps[0].shape[-1]

    def moments(*maps):
        means = [global_mean(x) for x in maps]
        variances = [
            ops.mean(ops.square(ops.cast(x, mean.dtype) - mean[:, None, None]), axis=(1, 2))
            for x, mean in zip(maps, means, strict=True)
        ]
        resized = means
        if sizes is not None:
            resized = [
                mean_after_resize(ops.cast(x, mean.dtype), size)
                for x, mean, size in zip(maps, means, sizes, strict=True)
            ]
        return tuple(ops.stack(values, axis=1) for values in (means, variances, resized))

    def average_group(values):
        values = ops.reshape(values, (-1, len(maps), groups, channels // groups))
        return ops.repeat(ops.mean(values, axis=-1), channels // groups, axis=-1)

    mean, variance, resized_mean = keras.remat(moments)(*maps)
    biased_mean = mean if bias is None else mean + ops.cast(bias, mean.dtype)
    group_mean = average_group(biased_mean)
    group_variance = average_group(variance + ops.square(biased_mean - group_mean))
    scale = ops.cast(gamma, mean.dtype) * ops.rsqrt(group_variance + EPSILON)
    shift = ops.cast(beta, mean.dtype) - (group_mean - biased_mean + mean) * scale
    coefficients = (scale, shift, resized_mean * scale + shift)
    per_map = zip(*(ops.unstack(x, axis=1) for x in coefficients), strict=True)
    return [
        AffineMap(x, *numbers, size)
        for x, numbers, size in zip(maps, per_map, sizes or [None] * len(maps), strict=True)
    ]


def global_mean(inputs):
    """Averages `(B, H, W, C)` over the pixels: `(B, C)`, at least float32."""
    return ops.mean(ops.cast(inputs, at_least_float32(inputs.dtype)), axis=(1, 2))


def _fit(values, size):
    return values if size is None else resize_align_corners(values, size)


def _per_pixel(coefficients, values):
    """Reshapes `(B, C)` to `(B, 1, 1, C)` in the dtype of `values`."""
    return ops.cast(coefficients, values.dtype)[:, None, None]
