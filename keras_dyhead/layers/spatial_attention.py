"""Spatial-aware attention (π_S): deformable sampling of each level and of its neighbours."""

from typing import NamedTuple

import keras
from keras import ops

from keras_dyhead.layers.deform_conv2d import uniform_fan_in
from keras_dyhead.ops.deform_conv import concatenate_grids, deform_conv_rows, sampling_grid
from keras_dyhead.ops.resize import resize_align_corners
from keras_dyhead.ops.rows import split_rows

_TAPS = 9


class SampledMap(NamedTuple):
    """A sampled map, normalised on demand: the normalised map is `values * scale + shift`.

    Normalisation, scale- and task-aware attention are affine in the map, with coefficients that
    depend on its means only. Whoever combines maps folds the coefficients first and passes over the
    pixels once.

    Attributes:
        values: Output of the convolution, `(B, H, W, C)`, in the layer's compute dtype.
        mean: Mean of `values` over the positions, `(B, C)`, float32.
        scale: Factor of the normalisation, `(B, C)`, float32.
        shift: Summand of the normalisation, `(B, C)`, float32.
    """

    values: keras.KerasTensor
    mean: keras.KerasTensor
    scale: keras.KerasTensor
    shift: keras.KerasTensor


@keras.saving.register_keras_serializable(package="keras_dyhead")
class SpatialAwareAttention(keras.layers.Layer):
    """Samples every level, its finer and its coarser neighbour where the level itself says to look.

    A 3x3 convolution on each (median) level predicts 18 offsets and 9 mask logits. With them three
    modulated deformable 3x3 convolutions, shared over the levels and each followed by a group
    normalisation of its own (epsilon 1e-5), sample the level (`mid`), the finer level with stride 2
    (`low`) and the coarser one (`high`). Each kernel runs once over all levels of the pyramid.
    Offsets and mask are float32 under every dtype policy.

    Args:
        channels: Number of output channels, a multiple of `groups`.
        alignment: How offsets predicted on a level act on the coarser map. `"paper"` (default)
            resizes the coarser map to the level first, so that every offset acts where it was
            predicted. `"published"` is what every published checkpoint was trained with: the
            coarser map is convolved on its own grid, with the level's offsets and masks read as
            flat channel-first memory, normalised there, and the result is resized
            (microsoft/DynamicHead issue 25).
        deformable: `False` samples the regular grid: ordinary convolutions without offsets and
            mask. Defaults to `True`.
        use_bias: Whether the three convolutions have a bias (Microsoft's have, OpenMMLab's have
            not; the normalisation does not absorb it). Defaults to `True`.
        groups: Groups of the normalisation. Defaults to 16.
        **kwargs: Of `keras.layers.Layer`.

    Call arguments:
        inputs: List of maps `(B, H_l, W_l, C)`, fine to coarse, each half the size of the one
            before (rounded up).

    Returns:
        List with one list of maps `(B, H_l, W_l, channels)` per level: `[mid, low, high]`, without
        `low` on the finest and without `high` on the coarsest level.

    Example:

    >>> pyramid = [keras.random.normal((1, n, n, 32)) for n in (16, 8, 4)]
    >>> [len(branches) for branches in SpatialAwareAttention(channels=32)(pyramid)]
    [2, 3, 2]

    Source: paper, section 3.2, equation 4; `DyConv` in the released code.
    """

    def __init__(
        self,
        channels: int,
        alignment: str = "paper",
        deformable: bool = True,
        use_bias: bool = True,
        groups: int = 16,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if alignment not in ("paper", "published"):
            raise ValueError(
                f'`alignment` must be "paper" or "published". Received: alignment={alignment!r}'
            )
        if channels <= 0 or channels % groups:
            raise ValueError(
                f"`channels` must be a positive multiple of groups={groups}. "
                f"Received: channels={channels}"
            )
        self.channels = channels
        self.alignment = alignment
        self.deformable = deformable
        self.use_bias = use_bias
        self.groups = groups
        if deformable:
            self.offset_conv = keras.layers.Conv2D(
                3 * _TAPS,
                3,
                padding="same",
                kernel_initializer="zeros",
                dtype=keras.backend.result_type(self.compute_dtype, "float32"),
                name="offset_conv",
            )

    def build(self, input_shape):
        widths = {shape[-1] for shape in input_shape}
        if len(widths) != 1 or None in widths:
            raise ValueError(
                "All levels must have the same known number of channels. Received: shapes "
                f"{[tuple(shape) for shape in input_shape]}"
            )
        (width,) = widths
        if self.deformable:
            self.offset_conv.build((None, None, None, width))
        self.kernels, self.biases, self.gammas, self.betas = {}, {}, {}, {}
        for branch in ("mid", "low", "high"):
            self.kernels[branch] = self.add_weight(
                name=f"{branch}_kernel",
                shape=(3, 3, width, self.channels),
                initializer=uniform_fan_in(),
            )
            vectors = {"gamma": (self.gammas, "ones"), "beta": (self.betas, "zeros")}
            if self.use_bias:
                vectors["bias"] = (self.biases, "zeros")
            for name, (weights, initializer) in vectors.items():
                weights[branch] = self.add_weight(
                    name=f"{branch}_{name}",
                    shape=(self.channels,),
                    initializer=initializer,
                    autocast=False,
                )
        self.built = True

    def call(self, inputs):
        return [
            [
                sample.values * self._per_pixel(sample.scale) + self._per_pixel(sample.shift)
                for sample in branches
            ]
            for branches in self.sample(inputs)
        ]

    def sample(self, inputs):
        """Samples like a call, with the normalisation yet to be applied: lists of `SampledMap`."""
        maps = list(inputs)
        finer, coarser = maps[:-1], maps[1:]
        sizes = [ops.shape(level)[1:3] for level in maps]
        fields = [self._fields(level) for level in maps] if self.deformable else None

        branches = {
            "mid": self._convolve("mid", maps, sizes, fields),
            "low": self._convolve("low", finer, sizes[1:], fields and fields[1:], strides=2),
        }
        if self.alignment == "paper":
            coarser = [
                resize_align_corners(level, size)
                for level, size in zip(coarser, sizes, strict=False)
            ]
            branches["high"] = self._convolve("high", coarser, sizes[:-1], fields and fields[:-1])
            resized = branches["high"]
        else:
            if self.deformable:
                fields = [
                    read_flat(field, height * width)
                    for field, (height, width) in zip(fields, sizes[1:], strict=False)
                ]
            branches["high"] = self._convolve("high", coarser, sizes[1:], fields)
            resized = [
                resize_align_corners(level, size)
                for level, size in zip(branches["high"], sizes, strict=False)
            ]
        samples = self._normalise(branches)
        if self.alignment == "published":
            samples["high"] = [
                sample._replace(values=values, mean=global_mean(values))
                for sample, values in zip(samples["high"], resized, strict=True)
            ]
        low, high = [None, *samples["low"]], [*samples["high"], None]
        return [
            [sample for sample in level if sample is not None]
            for level in zip(samples["mid"], low, high, strict=True)
        ]

    def _fields(self, level):
        """Offsets (18) and mask logits (9) of every pixel: `(B, H * W, 27)`, at least float32."""
        field = self.offset_conv(level)
        height, width = ops.shape(field)[1:3]
        return ops.reshape(field, (-1, height * width, 3 * _TAPS))

    def _convolve(self, branch, sources, sizes, fields, strides=1):
        """Convolves all sources with one kernel; the outputs have the given sizes."""
        if not sources:
            return []
        if not self.deformable:
            return [
                ops.conv(
                    ops.pad(source, ((0, 0), (1, 1), (1, 1), (0, 0))), self.kernels[branch], strides
                )
                for source in sources
            ]
        grids, rows, start = [], [], 0
        for source, size in zip(sources, sizes, strict=True):
            height, width = ops.shape(source)[1:3]
            grids.append(
                sampling_grid(size, (height, width), strides=(strides, strides), start=start)
            )
            rows.append(ops.reshape(source, (-1, height * width, source.shape[-1])))
            start = start + height * width
        field = ops.concatenate(fields, axis=1)
        outputs = deform_conv_rows(
            ops.concatenate(rows, axis=1),
            concatenate_grids(grids),
            field[..., : 2 * _TAPS],
            ops.sigmoid(field[..., 2 * _TAPS :]),
            self.kernels[branch],
        )
        parts = split_rows(outputs, [height * width for height, width in sizes])
        return [
            ops.reshape(part, (-1, *size, self.channels))
            for part, size in zip(parts, sizes, strict=True)
        ]

    def _normalise(self, branches):
        """Finds scale and shift of every map's group normalisation, all maps at once."""
        maps = [level for levels in branches.values() for level in levels]
        names = [name for name, levels in branches.items() for _ in levels]
        means = [global_mean(level) for level in maps]
        mean = ops.stack(means, axis=1)
        variance = ops.stack(
            [
                ops.mean(ops.square(ops.cast(level, m.dtype) - m[:, None, None]), axis=(1, 2))
                for level, m in zip(maps, means, strict=True)
            ],
            axis=1,
        )

        def of_maps(weights):
            return ops.stack([ops.cast(weights[name], mean.dtype) for name in names])

        def of_group(values):
            shape = (-1, len(maps), self.groups, self.channels // self.groups)
            grouped = ops.mean(ops.reshape(values, shape), axis=-1, keepdims=True)
            grouped = ops.repeat(grouped, shape[-1], axis=-1)
            return ops.reshape(grouped, (-1, len(maps), self.channels))

        # The bias moves the mean, the mean's distance from that of its group widens the variance.
        biased_mean = mean + of_maps(self.biases) if self.use_bias else mean
        group_mean = of_group(biased_mean)
        group_variance = of_group(variance + ops.square(biased_mean - group_mean))
        scale = of_maps(self.gammas) * ops.rsqrt(group_variance + 1e-5)
        shift = of_maps(self.betas) - (group_mean - biased_mean + mean) * scale

        samples = [
            SampledMap(*parts)
            for parts in zip(
                maps, means, ops.unstack(scale, axis=1), ops.unstack(shift, axis=1), strict=True
            )
        ]
        return {
            branch: [s for s, name in zip(samples, names, strict=True) if name == branch]
            for branch in branches
        }

    def _per_pixel(self, values):
        return ops.cast(values, self.compute_dtype)[:, None, None]

    def compute_output_shape(self, input_shape):
        last = len(input_shape) - 1
        return [
            [(*shape[:-1], self.channels)] * (1 + (level > 0) + (level < last))
            for level, shape in enumerate(input_shape)
        ]

    def get_config(self):
        return {
            **super().get_config(),
            "channels": self.channels,
            "alignment": self.alignment,
            "deformable": self.deformable,
            "use_bias": self.use_bias,
            "groups": self.groups,
        }


def global_mean(inputs):
    """Mean of `(B, H, W, C)` over the positions: `(B, C)`, at least float32."""
    dtype = keras.backend.result_type(inputs.dtype, "float32")
    return ops.mean(ops.cast(inputs, dtype), axis=(1, 2))


def read_flat(field, positions):
    """Reads a field as the released code does on the coarser level: as flat channel-first memory.

    Offsets (18 channels) and mask (9) are read apart, each from the start of its sample's memory:
    `offset.reshape(-1)[:18 * positions].reshape(18, positions)`.

    Args:
        field: Tensor of shape `(B, P, 27)`.
        positions: Number of pixels of the coarser level, at most `P`.

    Returns:
        Tensor of shape `(B, positions, 27)`.
    """
    parts = []
    for part in (field[..., : 2 * _TAPS], field[..., 2 * _TAPS :]):
        channels = part.shape[-1]
        memory = ops.reshape(ops.swapaxes(part, 1, 2), (-1, channels * ops.shape(part)[1]))
        memory = ops.reshape(memory[:, : channels * positions], (-1, channels, positions))
        parts.append(ops.swapaxes(memory, 1, 2))
    return ops.concatenate(parts, axis=-1)
