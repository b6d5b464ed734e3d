"""Spatial-aware attention (π_S): deformable sampling of each level and its neighbors."""

import itertools

import keras
from keras import ops

from keras_dyhead.layers.affine_maps import AffineMaps, group_normalize
from keras_dyhead.layers.full_precision import FullPrecisionConv2D
from keras_dyhead.layers.pyramid_layer import PyramidLayer, listed
from keras_dyhead.layers.start import SCALE, STARTS, initial_branch
from keras_dyhead.ops.arguments import check, check_choice, whole_number
from keras_dyhead.ops.chunks import for_xla
from keras_dyhead.ops.conv_rows import conv_rows
from keras_dyhead.ops.deform_conv import deform_conv_rows
from keras_dyhead.ops.resize import resize_align_corners
from keras_dyhead.ops.rows import MapRows, split_maps, split_rows
from keras_dyhead.ops.sampling_form import chosen_form
from keras_dyhead.ops.sampling_grid import concatenate_grids, sampling_grid

BRANCHES = {"mid": 0, "low": 1, "high": 0}
"""The first level that has each branch."""
_TAPS = 9
MULTIPLY_FIRST = 128
"""With this many channels or more, multiplying a coarser level by the kernel before sampling it
(`matmul_gather`) is faster, by a third at 256. With fewer, the products are too small a part."""


@keras.saving.register_keras_serializable(package="keras_dyhead")
class SpatialAwareAttention(PyramidLayer):
    """Samples each level and its neighbors at positions that the level itself predicts.

    Three modulated deformable 3x3 convolutions sample the level itself (`mid`), the finer level
    with stride 2 (`low`) and the coarser level (`high`). Each computes, at every position `p`,
    `sum_k w_k * x(p + p_k + offset_k) * mask_k`, followed by its own group normalization (epsilon
    1e-5). A 3x3 convolution on each (median) level predicts 18 offsets and 9 mask logits, in at
    least float32. All levels share the weights; each kernel runs once over the whole pyramid.

    Args:
        channels: Number of output channels, a multiple of `groups`.
        alignment: How offsets predicted on a level act on the coarser map. `"paper"` (default)
            first resizes the coarser map to the level, so that each offset acts where it was
            predicted. `"published"` is what every published checkpoint was trained with: the
            coarser map is convolved and normalized on its own grid, with the level's offsets and
            masks read as flat channel-first memory, and the result is resized
            (microsoft/DynamicHead issue 25).
        use_spatial_attention: `False` samples the regular grid: ordinary convolutions without
            offsets and mask. Defaults to `True`.
        use_bias: Whether the three convolutions have a bias. Microsoft's do, OpenMMLab's do not.
            The normalization does not absorb it. Defaults to `True`.
        groups: Number of groups of the normalization. Defaults to 16.
        start: `"identity"` (default) or `"released"`; see `DyHeadNeck`. Near the identity, `mid`
            starts as the level normalized to a standard deviation of 8, and `low` and `high` are
            0.3 times as large. The outputs of the offset convolution are divided by 8.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: List or dict of maps `(B, H_l, W_l, C)`, fine to coarse. Each is half the size of
            the previous one, rounded up or down.

    Returns:
        List with one dict of maps `(B, H_l, W_l, channels)` per level: `{"mid", "low", "high"}`,
        without `"low"` on the finest level and without `"high"` on the coarsest.

    Example:

    >>> pyramid = [keras.random.normal((1, n, n, 32)) for n in (16, 8, 4)]
    >>> [list(branches) for branches in SpatialAwareAttention(channels=32)(pyramid)]
    [['mid', 'high'], ['mid', 'low', 'high'], ['mid', 'low']]

    Source: paper, section 3.2, equation 4; `DyConv` in the released code.
    """

    def __init__(
        self,
        channels: int,
        alignment: str = "paper",
        use_spatial_attention: bool = True,
        use_bias: bool = True,
        groups: int = 16,
        start: str = "identity",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choice("alignment", alignment, ("paper", "published"))
        check_choice("start", start, STARTS)
        self.channels = whole_number(channels, "channels")
        self.groups = whole_number(groups, "groups")
        check("channels", channels, channels % groups == 0, f"a multiple of groups={groups}")
        self.alignment = alignment
        self.use_spatial_attention = use_spatial_attention
        self.use_bias = use_bias
        self.start = start
        self.offset_scale = 1 / SCALE if start == "identity" else 1.0
        if use_spatial_attention:
            self.offset_conv = FullPrecisionConv2D(
                3 * _TAPS,
                3,
                padding="same",
                data_format="channels_last",
                kernel_initializer="zeros",
                dtype=self.compute_dtype,
                name="offset_conv",
            )

    def build(self, input_shape):
        width = listed(self.check_levels(input_shape))[0][-1]
        if self.use_spatial_attention:
            self.offset_conv.build((None, None, None, width))
        self.kernels, self.biases, self.gammas, self.betas = {}, {}, {}, {}
        for branch in BRANCHES:
            initializer, scale = initial_branch(branch, self.start)
            self.kernels[branch] = self.add_weight(
                shape=(3, 3, width, self.channels),
                initializer=initializer,
                name=f"{branch}_kernel",
            )
            self.gammas[branch] = self._add_vector(f"{branch}_gamma", scale)
            self.betas[branch] = self._add_vector(f"{branch}_beta", 0.0)
            if self.use_bias:
                self.biases[branch] = self._add_vector(f"{branch}_bias", 0.0)
        self.built = True

    def _add_vector(self, name, value):
        return self.add_weight(
            shape=(self.channels,),
            initializer=keras.initializers.Constant(value),
            autocast=False,
            name=name,
        )

    def check_levels(self, shapes):
        levels = super().check_levels(shapes)
        widths = {shape[-1] for shape in levels.values()}
        if len(widths) > 1 or self.built and widths != {self.kernels["mid"].shape[2]}:
            raise ValueError(
                "All levels must have the same number of channels in every call. "
                f"Received: shapes {shapes}"
            )
        return levels

    def call(self, inputs):
        return _by_level({name: x.compute() for name, x in self.sample(inputs).items()})

    def sample(self, inputs) -> dict[str, AffineMaps]:
        """Returns the branches, whose normalization is not yet computed."""
        return self.normalize(self.convolve(inputs))

    def convolve(self, inputs) -> dict[str, list]:
        """Returns the maps of all levels that have a branch, before normalization."""
        levels = [ops.cast(level, self.compute_dtype) for level in listed(inputs)]
        kernels = {
            branch: ops.cast(kernel, self.compute_dtype) for branch, kernel in self.kernels.items()
        }
        if self.use_spatial_attention:
            return self._convolve_sampled(levels, kernels)

        def conv(branch, x, strides=1):
            x = ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            return ops.conv(x, kernels[branch], strides, data_format="channels_last")

        def halve(finer, coarser):
            height, width = ops.shape(coarser)[1:3]  # may be rounded down
            return conv("low", finer, strides=2)[:, :height, :width]

        mid = [conv("mid", x) for x in levels]
        low = list(itertools.starmap(halve, itertools.pairwise(levels)))
        coarser = _enlarge(levels) if self.alignment == "paper" else levels[1:]
        high = [conv("high", x) for x in coarser]
        return {"mid": mid, "low": low, "high": high}

    def _convolve_sampled(self, levels, kernels):
        """Equation 4: each kernel runs once over all levels, at the positions they predict."""
        pyramid = MapRows(levels)
        sizes, starts = pyramid.sizes, pyramid.starts
        fields = self._all_fields(levels, pyramid)
        grids = [
            sampling_grid(size, size, start=start)
            for size, start in zip(sizes, starts, strict=True)
        ]
        mid = _deform_conv(pyramid, kernels["mid"], grids, sizes, fields)
        if len(levels) == 1:
            return {"mid": mid, "low": [], "high": []}

        low_grids = [
            sampling_grid(size, finer, strides=(2, 2), start=start)
            for size, finer, start in zip(sizes[1:], sizes[:-1], starts[:-1], strict=True)
        ]
        low = _deform_conv(pyramid, kernels["low"], low_grids, sizes[1:], fields[1:])

        if self.alignment == "published":
            fields = [
                read_flat(field, height * width)
                for field, (height, width) in zip(fields[:-1], sizes[1:], strict=True)
            ]
            high = _deform_conv(pyramid, kernels["high"], grids[1:], sizes[1:], fields)
        elif self._multiplies_first(levels):
            coarser = MapRows(levels[1:])
            grids = [
                sampling_grid(size, size, start=start, stored_size=stored)
                for size, start, stored in zip(
                    sizes[:-1], coarser.starts, coarser.sizes, strict=True
                )
            ]
            high = _deform_conv(coarser, kernels["high"], grids, sizes[:-1], fields[:-1])
        else:
            coarser = MapRows(_enlarge(levels))
            high = _deform_conv(coarser, kernels["high"], grids[:-1], sizes[:-1], fields[:-1])
        return {"mid": mid, "low": low, "high": high}

    def _multiplies_first(self, levels):
        """Whether coarser levels are multiplied by the kernel, then sampled as if enlarged."""
        channels = min(self.channels, levels[0].shape[-1])
        return channels >= MULTIPLY_FIRST and chosen_form(self.compute_dtype) == "sparse"

    def normalize(self, maps) -> dict[str, AffineMaps]:
        """Normalizes the result of `convolve`, without branches that have no levels."""
        sizes = {}
        if self.alignment == "published":
            sizes["high"] = [ops.shape(x)[1:3] for x in maps["mid"][:-1]]
        return {
            branch: group_normalize(
                values,
                self.groups,
                self.gammas[branch],
                self.betas[branch],
                self.biases.get(branch),
                sizes.get(branch),
                BRANCHES[branch],
            )
            for branch, values in maps.items()
            if values
        }

    def offsets_and_masks(self, inputs):
        """Predicts where the nine taps of each pixel sample, for visualization.

        Returns:
            List of offsets from the regular grid, `(B, H_l, W_l, 9, 2)`, (y, x) in pixels of the
            sampled map, and list of masks in [0, 1], `(B, H_l, W_l, 9)`.
        """
        offsets, masks = [], []
        for level in inputs:
            shape = (*ops.shape(level)[:3], _TAPS)
            if self.use_spatial_attention:
                moved, logits = ops.split(self._fields(level), [2 * _TAPS], axis=-1)
                offsets.append(ops.reshape(moved, (*shape, 2)))
                masks.append(ops.reshape(ops.sigmoid(logits), shape))
            else:
                offsets.append(ops.zeros((*shape, 2)))
                masks.append(ops.ones(shape))
        return offsets, masks

    def _fields(self, level):
        """Predicts 18 offsets and 9 mask logits per pixel: `(B, H * W, 27)`, at least float32."""
        field = self.offset_conv(level) * self.offset_scale
        height, width = ops.shape(field)[1:3]
        return ops.reshape(field, (-1, height * width, 3 * _TAPS))

    def _all_fields(self, levels, pyramid):
        """Returns `_fields` of each level; for XLA, by one matrix product."""
        if not (for_xla() and all(isinstance(n, int) for size in pyramid.sizes for n in size)):
            return [self._fields(level) for level in levels]
        conv = self.offset_conv
        rows = ops.cast(pyramid.values, conv.compute_dtype)
        fields = conv_rows(rows, ops.convert_to_tensor(conv.kernel), pyramid.sizes) + conv.bias
        return split_rows(fields * self.offset_scale, [h * w for h, w in pyramid.sizes])

    def compute_output_shape(self, input_shape):
        shapes = [(*shape[:-1], self.channels) for shape in listed(input_shape)]
        return _by_level({"mid": shapes, "low": shapes[1:], "high": shapes[:-1]})

    def get_config(self):
        return {
            **super().get_config(),
            "channels": self.channels,
            "alignment": self.alignment,
            "use_spatial_attention": self.use_spatial_attention,
            "use_bias": self.use_bias,
            "groups": self.groups,
            "start": self.start,
        }


def _by_level(branches) -> list[dict]:
    """Turns the values of each branch into those of each level."""
    return [
        {
            branch: values[level - BRANCHES[branch]]
            for branch, values in branches.items()
            if 0 <= level - BRANCHES[branch] < len(values)
        }
        for level in range(len(branches["mid"]))
    ]


def _deform_conv(rows: MapRows, kernel, grids, sizes, fields) -> list:
    """Applies one kernel to several maps. Each output has a grid, a size and a field."""
    offsets, mask_logits = ops.split(ops.concatenate(fields, axis=1), [2 * _TAPS], axis=-1)
    grid, mask = concatenate_grids(grids), ops.sigmoid(mask_logits)
    outputs = deform_conv_rows(rows.values, grid, offsets, mask, kernel)
    return split_maps(outputs, sizes)


def _enlarge(levels) -> list:
    """Resizes each level but the finest to the size of the next finer one."""
    return [
        resize_align_corners(coarser, ops.shape(finer)[1:3])
        for finer, coarser in itertools.pairwise(levels)
    ]


def read_flat(field, positions):
    """Reads a field for the coarser level like the released code: as flat channel-first memory.

    Offsets (18 channels) and mask (9) are read separately, each from the start of its sample's
    memory: `offset.reshape(-1)[:18 * positions].reshape(18, positions)`. A field `(B, P, 27)`
    becomes `(B, positions, 27)`; the coarser level has `positions` pixels, at most `P`.
    """
    parts = []
    for part in (field[..., : 2 * _TAPS], field[..., 2 * _TAPS :]):
        channels = part.shape[-1]
        memory = ops.reshape(ops.swapaxes(part, 1, 2), (-1, channels * ops.shape(part)[1]))
        memory = ops.reshape(memory[:, : channels * positions], (-1, channels, positions))
        parts.append(ops.swapaxes(memory, 1, 2))
    return ops.concatenate(parts, axis=-1)
