"""Spatial-aware attention (π_S): deformable sampling of each level and of its neighbours."""

import keras
from keras import ops

from keras_dyhead.layers.deform_conv2d import uniform_fan_in
from keras_dyhead.ops.deform_conv import concatenate_grids, deform_conv_rows, sampling_grid
from keras_dyhead.ops.resize import resize_align_corners

_TAPS = 9


@keras.saving.register_keras_serializable(package="keras_dyhead")
class SpatialAwareAttention(keras.layers.Layer):
    """Samples every level, its finer and its coarser neighbour where the level itself says to look.

    A 3x3 convolution on each (median) level predicts 18 offsets and 9 mask logits. With them three
    modulated deformable 3x3 convolutions, shared over the levels and each followed by its own
    `GroupNormalization`, sample the level (`mid`), the finer level with stride 2 (`low`) and the
    coarser one (`high`). Each kernel runs once over all levels of the pyramid. Offsets and mask are
    float32 under every dtype policy.

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
            not; `GroupNormalization` does not absorb it). Defaults to `True`.
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
        self.norms = {
            branch: keras.layers.GroupNormalization(
                groups, epsilon=1e-5, dtype=self.dtype_policy, name=f"{branch}_norm"
            )
            for branch in ("mid", "low", "high")
        }

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
        self.kernels, self.biases = {}, {}
        for branch, norm in self.norms.items():
            self.kernels[branch] = self.add_weight(
                name=f"{branch}_kernel",
                shape=(3, 3, width, self.channels),
                initializer=uniform_fan_in(),
            )
            if self.use_bias:
                self.biases[branch] = self.add_weight(
                    name=f"{branch}_bias", shape=(self.channels,), initializer="zeros"
                )
            norm.build((None, None, self.channels))
        self.built = True

    def call(self, inputs):
        maps = list(inputs)
        fields = [self._offsets_and_mask(level) for level in maps] if self.deformable else None
        mid = self._convolve("mid", maps, maps, fields)
        low = self._convolve("low", maps[:-1], maps[1:], fields and fields[1:], strides=2)
        if self.alignment == "paper":
            coarser = [
                resize_align_corners(coarse, ops.shape(fine)[1:3])
                for fine, coarse in zip(maps, maps[1:], strict=False)
            ]
            high = self._convolve("high", coarser, maps[:-1], fields and fields[:-1])
        else:
            if self.deformable:
                fields = [
                    read_flat(field, _size(coarse))
                    for field, coarse in zip(fields, maps[1:], strict=False)
                ]
            high = self._convolve("high", maps[1:], maps[1:], fields)
            high = [
                resize_align_corners(coarse, ops.shape(fine)[1:3])
                for fine, coarse in zip(maps, high, strict=False)
            ]
        low, high = [None, *low], [*high, None]
        return [
            [branch for branch in branches if branch is not None]
            for branches in zip(mid, low, high, strict=True)
        ]

    def _offsets_and_mask(self, level):
        """Field `(B, H * W, 27)`, float32: 18 offsets and 9 mask values in (0, 1)."""
        field = ops.reshape(self.offset_conv(level), (-1, _size(level), 3 * _TAPS))
        return ops.concatenate(
            [field[..., : 2 * _TAPS], ops.sigmoid(field[..., 2 * _TAPS :])], axis=-1
        )

    def _convolve(self, branch, sources, targets, fields, strides=1):
        """Convolves and normalises `sources`, with outputs of the sizes of `targets`."""
        if not sources:
            return []
        shapes = [ops.shape(target) for target in targets]
        if self.deformable:
            outputs = self._deform(branch, sources, shapes, fields, strides)
        else:
            outputs = [
                ops.conv(
                    ops.pad(source, ((0, 0), (1, 1), (1, 1), (0, 0))), self.kernels[branch], strides
                )
                for source in sources
            ]
            outputs = [ops.reshape(o, (-1, _size(o), self.channels)) for o in outputs]
        if self.use_bias:
            outputs = [output + self.biases[branch] for output in outputs]
        return [
            ops.reshape(self.norms[branch](output), (-1, *shape[1:3], self.channels))
            for output, shape in zip(outputs, shapes, strict=True)
        ]

    def _deform(self, branch, sources, shapes, fields, strides):
        """One deformable convolution over all sources: a list of `(B, positions, channels)`."""
        grids, start = [], 0
        for source, shape in zip(sources, shapes, strict=True):
            input_size = ops.shape(source)[1:3]
            grids.append(
                sampling_grid(shape[1:3], input_size, strides=(strides, strides), start=start)
            )
            start = start + input_size[0] * input_size[1]
        field = ops.concatenate(fields, axis=1)
        outputs = deform_conv_rows(
            ops.concatenate([ops.reshape(s, (-1, _size(s), s.shape[-1])) for s in sources], axis=1),
            concatenate_grids(grids),
            field[..., : 2 * _TAPS],
            field[..., 2 * _TAPS :],
            self.kernels[branch],
        )
        parts, start = [], 0
        for shape in shapes:
            end = start + shape[1] * shape[2]
            parts.append(outputs[:, start:end])
            start = end
        return parts

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


def _size(level):
    height, width = ops.shape(level)[1:3]
    return height * width
