"""Maps known up to a scale and a shift per channel, so that pixels are read only once.

Group normalization, scale-aware and task-aware attention multiply each channel of an image by one
number and add another. These numbers depend only on means and variances. So they can be computed
first, for all levels together, on tensors of shape `(B, levels, C)`, and applied to the pixels in
one pass. For convolved maps `x_i`:

    normalized  y_i = scale_i * x_i + shift_i          scale_i = gamma_i / sqrt(var_i + eps)
    weighted    z = sum_i g_i * y_i = sum_i (g_i * scale_i) * x_i + sum_i g_i * shift_i
    rectified   max(a1 * z + b1, a2 * z + b2)

`g_i` needs the mean of `y_i`, which is `scale_i * mean(x_i) + shift_i`. The a's and b's need the
mean of `z`, which is the sum of `g_i * mean(y_i)`. So `x_i` is read once for its mean and variance,
and once for the result; `y_i` and `z` are never stored. Gradients need only `x_i`, too:
intermediate results are recomputed (`keras.remat`).
"""

import keras
import numpy as np
from keras import ops

from keras_dyhead.ops.arguments import at_least_float32
from keras_dyhead.ops.resize import mean_after_resize, resize_align_corners

EPSILON = 1e-5  # of the group normalization


class AffineMaps:
    """The maps `values[i] * scale[:, i] + shift[:, i]` of `n` levels, not yet computed.

    Args:
        values: List of `(B, H_i, W_i, C)`.
        scale: `(B, n, C)`.
        shift: `(B, n, C)`.
        mean: `(B, n, C)`: means of the resized maps over their pixels.
        sizes: (height, width) to resize each map to. `None` keeps their sizes.
        first: Number of the first of the levels.
    """

    def __init__(self, values, scale, shift, mean, sizes=None, first=0):
        self.values, self.scale, self.shift, self.mean = values, scale, shift, mean
        self.sizes = sizes or [None] * len(values)
        self.levels = range(first, first + len(values))

    def compute(self) -> list:
        """Returns the maps."""
        maps = [_fit(x, size) for x, size in zip(self.values, self.sizes, strict=True)]
        scales, shifts = (ops.unstack(x, len(maps), axis=1) for x in (self.scale, self.shift))
        return [
            x * _per_pixel(scale, x) + _per_pixel(shift, x)
            for x, scale, shift in zip(maps, scales, shifts, strict=True)
        ]


class WeightedMeans:
    """Weighted means of the branches of each level, not yet computed.

    Args:
        branches: List of `AffineMaps`, the first for all levels.
        weights: Weights of the maps, `(B, n, 1)` per branch. Defaults to `None`: all are 1.
    """

    def __init__(self, branches, weights=None):
        self.branches, self.levels = branches, branches[0].levels
        count = sum(np.isin(self.levels, x.levels) for x in branches)
        shares = [ops.cast(1 / count[x.levels, None], x.mean.dtype) for x in branches]
        if weights is not None:
            shares = [share * weight for share, weight in zip(shares, weights, strict=True)]
        self.scales = [x.scale * share for x, share in zip(branches, shares, strict=True)]
        self.shift = self._sum([x.shift * share for x, share in zip(branches, shares, strict=True)])
        self.mean = self._sum([x.mean * share for x, share in zip(branches, shares, strict=True)])

    def relu(self) -> list:
        """Returns the means of all levels after a ReLU."""
        return self._over_pixels(lambda z, shift: ops.relu(z + _per_pixel(shift, z)), [self.shift])

    def dynamic_relu(self, a1, b1, a2, b2) -> list:
        """Returns `max(a1 * z + b1, a2 * z + b2)` of the means `z`; arguments: `(B, levels, C)`."""

        def maximum(z, *lines):
            a1, b1, a2, b2 = (_per_pixel(x, z) for x in lines)
            return ops.cast(ops.maximum(z * a1 + b1, z * a2 + b2), z.dtype)

        return self._over_pixels(maximum, [a1, a1 * self.shift + b1, a2, a2 * self.shift + b2])

    def _sum(self, values):
        """Adds the `(B, n, C)` of each branch where it has levels: `(B, levels, C)`."""
        last = self.levels[-1]
        return sum(
            ops.pad(value, ((0, 0), (x.levels[0], last - x.levels[-1]), (0, 0)))
            for x, value in zip(self.branches, values, strict=True)
        )

    def _over_pixels(self, function, coefficients):
        """Calls `function(mean without shift, *coefficients)` for each level."""
        scales = [ops.unstack(x, x.shape[1], axis=1) for x in self.scales]
        lines = zip(*(ops.unstack(x, len(self.levels), axis=1) for x in coefficients), strict=True)
        outputs = []
        for level, line in enumerate(lines):
            parts = [
                [part[x.levels.index(level)] for part in (x.values, x.sizes, scale)]
                for x, scale in zip(self.branches, scales, strict=True)
                if level in x.levels
            ]
            outputs.append(_apply(function, *zip(*parts, strict=True), line))
        return outputs


def _apply(function, values, sizes, scales, rest):
    """Calls `function(sum(value * scale), *rest)` and stores only the arguments."""
    count = len(values)

    def compute(*tensors):
        values, scales, rest = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
        values = [_fit(x, size) for x, size in zip(values, sizes, strict=True)]
        terms = zip(values, scales, strict=True)
        return function(sum(x * _per_pixel(scale, x) for x, scale in terms), *rest)

    return keras.remat(compute)(*values, *scales, *rest)


def group_normalize(maps, groups, gamma, beta, bias=None, sizes=None, first=0) -> AffineMaps:
    """Normalizes the convolved maps of several levels, then resizes them.

    Args:
        maps: List of `(B, H_l, W_l, C)`.
        groups: Number of groups of channels.
        gamma: `(C,)`: scale after the normalization.
        beta: `(C,)`: shift after the normalization.
        bias: `(C,)` or `None`: bias of the convolution. It is added here: it shifts the means of
            channels, whose distance from the mean of their group adds to the group's variance.
        sizes: (height, width) to resize each map to, or `None`.
        first: Number of the first level.
    """
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
    return AffineMaps(maps, scale, shift, resized_mean * scale + shift, sizes, first)


def global_mean(inputs):
    """Averages `(B, H, W, C)` over the pixels: `(B, C)`, at least float32."""
    return ops.mean(ops.cast(inputs, at_least_float32(inputs.dtype)), axis=(1, 2))


def _fit(values, size):
    return values if size is None else resize_align_corners(values, size)


def _per_pixel(coefficients, values):
    """Reshapes `(B, C)` to `(B, 1, 1, C)` in the dtype of `values`."""
    return ops.cast(coefficients, values.dtype)[:, None, None]
