"""Modulated deformable convolution (DCNv2) on channels-last tensors."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
from keras import ops

from keras_dyhead.ops.gather_matmul import gather_matmul


class SamplingGrid(NamedTuple):
    """Where the undisplaced taps of `P` output positions lie, and in which map.

    Attributes:
        y, x: Tensors of shape `(P, K)`, float32: pixel coordinates of the `K` taps.
        height, width: Tensors of shape `(P, 1)`, float32: size of the sampled map.
        start: Tensor of shape `(P, 1)`, int32: number of the sampled map's first row among all
            rows.
    """

    y: keras.KerasTensor
    x: keras.KerasTensor
    height: keras.KerasTensor
    width: keras.KerasTensor
    start: keras.KerasTensor


def deform_conv2d(
    inputs,
    offsets,
    mask,
    kernel,
    bias=None,
    strides: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 1,
    dilation_rate: int | Sequence[int] = 1,
    groups: int = 1,
    offset_groups: int = 1,
):
    """Convolves `inputs` at displaced, bilinearly interpolated and modulated positions.

    A tap reads position `output * strides - padding + tap * dilation_rate + offset`. Pixels outside
    the image count as zero, each of the four neighbours on its own, and a tap at `<= -1` or
    `>= size` (or at a NaN position) is zero with zero derivatives. Where a tap lies exactly on a
    pixel, the derivative to its offset is the one towards the larger coordinate.

    Coordinates are computed in float32 (float64 for float64 offsets), the matrix product in the
    dtype of `inputs`. Training keeps no sampled columns: the gradient samples again.

    Args:
        inputs: Tensor of shape `(B, H, W, C)`, float.
        offsets: Tensor of shape `(B, Ho, Wo, offset_groups * kh * kw * 2)`: per offset group and
            tap (row-major) the displacement `(y, x)` in pixels.
        mask: Tensor of shape `(B, Ho, Wo, offset_groups * kh * kw)` that multiplies the sampled
            values, or `None` for the unmodulated convolution (DCNv1).
        kernel: Tensor of shape `(kh, kw, C // groups, F)`.
        bias: Tensor of shape `(F,)` or `None`.
        strides: Int or pair (y, x). Defaults to 1.
        padding: Int or pair of pixels added on both sides, `"valid"` (0) or `"same"`
            (`dilation_rate * (k - 1) // 2`). Symmetric as in DCN, not as in TensorFlow. Defaults to
            1.
        dilation_rate: Int or pair. Defaults to 1.
        groups: Number of blocks that input and output channels are split into. Defaults to 1.
        offset_groups: Number of blocks of input channels with offsets of their own. Defaults to 1.

    Returns:
        Tensor of shape `(B, Ho, Wo, F)`, dtype of `inputs`.

    Raises:
        ValueError: If ranks, channel counts or known sizes do not fit each other.

    Example:

    >>> x = keras.random.normal((1, 8, 8, 4))
    >>> deform_conv2d(x, ops.zeros((1, 8, 8, 18)), None, keras.random.normal((3, 3, 4, 6))).shape
    (1, 8, 8, 6)

    Source: Zhu et al., "Deformable ConvNets v2" (CVPR 2019); the border rule is that of
    `torchvision.ops.deform_conv2d`, the zero derivative at exactly -1 that of the CUDA kernel in
    microsoft/DynamicHead.
    """
    inputs, offsets, kernel = (ops.convert_to_tensor(t) for t in (inputs, offsets, kernel))
    for name, tensor in (("inputs", inputs), ("offsets", offsets), ("kernel", kernel)):
        if len(tensor.shape) != 4:
            raise ValueError(f"`{name}` must have 4 dimensions. Received shape {tensor.shape}")
    kernel_size = tuple(kernel.shape[:2])
    strides, dilation_rate = pair(strides, "strides"), pair(dilation_rate, "dilation_rate")
    padding = resolve_padding(padding, kernel_size, dilation_rate)
    batch, height, width, channels = ops.shape(inputs)
    size = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(
            (height, width), padding, dilation_rate, kernel_size, strides, strict=True
        )
    )
    _check_shapes(inputs, offsets, mask, kernel, bias, size, groups, offset_groups)
    grid = sampling_grid(size, (height, width), kernel_size, strides, padding, dilation_rate)
    positions = size[0] * size[1]
    outputs = deform_conv_rows(
        ops.reshape(inputs, (batch, height * width, channels)),
        grid,
        ops.reshape(offsets, (batch, positions, offsets.shape[-1])),
        None if mask is None else ops.reshape(mask, (batch, positions, mask.shape[-1])),
        kernel,
        groups,
        offset_groups,
    )
    if bias is not None:
        outputs = outputs + ops.cast(bias, outputs.dtype)
    return ops.reshape(outputs, (batch, *size, kernel.shape[-1]))


def deform_conv_rows(rows, grid, offsets, mask, kernel, groups=1, offset_groups=1):
    """Deformable convolution over flattened maps, of which one or many make up `rows`.

    Args:
        rows: Tensor of shape `(B, R, C)`: the pixels of one map, or of several one after the other.
        grid: `SamplingGrid` of the `P` output positions.
        offsets: Tensor of shape `(B, P, offset_groups * K * 2)`.
        mask: Tensor of shape `(B, P, offset_groups * K)` or `None`.
        kernel: Tensor of shape `(kh, kw, C // groups, F)` with `K == kh * kw`.
        groups: As in `deform_conv2d`.
        offset_groups: As in `deform_conv2d`.

    Returns:
        Tensor of shape `(B, P, F)`, dtype of `rows`.
    """
    batch, num_rows, channels = ops.shape(rows)
    kernel_height, kernel_width, group_channels, filters = kernel.shape
    num_taps = kernel_height * kernel_width
    positions = ops.shape(offsets)[1]

    offsets = ops.cast(offsets, keras.backend.result_type(offsets.dtype, "float32"))
    offsets = _taps_first(offsets, (batch, positions, offset_groups, num_taps, 2))
    if mask is not None:
        mask = ops.cast(mask, offsets.dtype)
        mask = _taps_first(mask, (batch, positions, offset_groups, num_taps, 1))[..., 0]
    index, weights = _bilinear_corners(grid, offsets[..., 0], offsets[..., 1], mask)

    # Every (image, pixel, offset group) is a row of its own, gathered by one flat index.
    image = ops.reshape(ops.arange(batch, dtype="int32"), (batch, 1, 1, 1)) * num_rows
    group = ops.arange(offset_groups, dtype="int32")
    index = (index + image) * offset_groups + group
    columns = num_taps * offset_groups
    outputs = gather_matmul(
        ops.reshape(rows, (batch * num_rows * offset_groups, channels // offset_groups)),
        ops.reshape(index, (4, batch * positions, columns)),
        ops.reshape(weights, (4, batch * positions, columns)),
        ops.cast(ops.reshape(kernel, (num_taps, group_channels, filters)), rows.dtype),
        groups,
    )
    return ops.reshape(outputs, (batch, positions, filters))


def sampling_grid(
    size,
    input_size,
    kernel_size=(3, 3),
    strides=(1, 1),
    padding=(1, 1),
    dilation_rate=(1, 1),
    start=0,
) -> SamplingGrid:
    """Lays the taps of a convolution with output `size` over a map of `input_size`.

    Args:
        size: Pair `(Ho, Wo)` of ints or scalar tensors.
        input_size: Pair `(H, W)` of ints or scalar tensors.
        kernel_size: Pair of ints, as the following three.
        strides: Pair of ints.
        padding: Pair of pixels on both sides.
        dilation_rate: Pair of ints.
        start: Row number of the map's first pixel where several maps are concatenated.

    Returns:
        `SamplingGrid` with `P = Ho * Wo` and `K = kh * kw`.
    """
    rows, columns = (
        (ops.arange(n, dtype="float32") * s - p)[:, None] + ops.arange(k, dtype="float32") * d
        for n, s, p, k, d in zip(size, strides, padding, kernel_size, dilation_rate, strict=True)
    )
    positions, taps = size[0] * size[1], kernel_size[0] * kernel_size[1]
    full = (size[0], size[1], kernel_size[0], kernel_size[1])
    constant = ops.ones((positions, 1), dtype="int32")
    return SamplingGrid(
        y=ops.reshape(ops.broadcast_to(rows[:, None, :, None], full), (positions, taps)),
        x=ops.reshape(ops.broadcast_to(columns[None, :, None, :], full), (positions, taps)),
        height=ops.cast(constant * input_size[0], "float32"),
        width=ops.cast(constant * input_size[1], "float32"),
        start=constant * start,
    )


def concatenate_grids(grids: Sequence[SamplingGrid]) -> SamplingGrid:
    """Joins the grids of several maps, in the order of their output positions."""
    return SamplingGrid(*(ops.concatenate(parts, axis=0) for parts in zip(*grids, strict=True)))


def pair(value: int | Sequence[int], name: str) -> tuple[int, int]:
    """Repeats an int, or checks a pair of ints; `name` is what the error calls it."""
    values = (value, value) if isinstance(value, int) else tuple(value)
    if len(values) != 2 or not all(isinstance(v, int) for v in values):
        raise ValueError(f"`{name}` must be an int or a pair of ints. Received: {name}={value}")
    return values


def resolve_padding(padding, kernel_size, dilation_rate) -> tuple[int, int]:
    """Turns `"same"`, `"valid"`, an int or a pair into pixels per side."""
    if padding == "valid":
        return (0, 0)
    if padding == "same":
        return tuple(d * (k - 1) // 2 for k, d in zip(kernel_size, dilation_rate, strict=True))
    if isinstance(padding, str):
        raise ValueError(
            '`padding` must be "same", "valid", an int or a pair of ints. '
            f"Received: padding={padding!r}"
        )
    return pair(padding, "padding")


def _taps_first(tensor, shape):
    """Reshapes `(B, P, groups * K * n)` to `(B, P, K, groups, n)`."""
    return ops.swapaxes(ops.reshape(tensor, shape), 2, 3)


def _bilinear_corners(grid, offset_y, offset_x, mask):
    """Row numbers and weights of the four pixels around each tap: two tensors `(4, B, P, K, G)`."""
    y, x, height, width = (ops.cast(field, offset_y.dtype)[..., None] for field in grid[:4])
    start = grid.start[..., None]
    (top, bottom), weights_y = _linear_neighbours(y + offset_y, height)
    (left, right), weights_x = _linear_neighbours(x + offset_x, width)
    width = ops.cast(width, "int32")
    index = ops.stack([start + i * width + j for i in (top, bottom) for j in (left, right)])
    if mask is not None:
        weights_y = [w * mask for w in weights_y]
    return index, ops.stack([wy * wx for wy in weights_y for wx in weights_x])


def _linear_neighbours(position, size):
    """The two pixels around a position on one axis, clipped, and their weights, zero outside."""
    inside = ops.logical_and(position > -1, position < size)  # False for NaN
    position = ops.where(inside, position, 0.0)
    low = ops.floor(position)
    fraction = position - low
    weights = [
        ops.where(ops.logical_and(inside, low >= 0), 1 - fraction, 0.0),
        ops.where(ops.logical_and(inside, low < size - 1), fraction, 0.0),
    ]
    pixels = [ops.maximum(low, 0), ops.minimum(low + 1, size - 1)]
    return [ops.cast(pixel, "int32") for pixel in pixels], weights


def _check_shapes(inputs, offsets, mask, kernel, bias, size, groups, offset_groups):
    kernel_height, kernel_width, group_channels, filters = kernel.shape
    taps = kernel_height * kernel_width
    channels = inputs.shape[-1]
    expected = {
        "offsets": (offsets, 2 * taps * offset_groups),
        "mask": (mask, taps * offset_groups),
    }
    for name, (field, field_channels) in expected.items():
        if field is None:
            continue
        if field.shape[-1] != field_channels:
            raise ValueError(
                f"`{name}` must have shape (batch, height, width, {field_channels}) for a "
                f"{kernel_height}x{kernel_width} kernel and offset_groups={offset_groups}. "
                f"Received: {name}.shape={tuple(field.shape)}"
            )
        for found, wanted in zip(field.shape[1:3], size, strict=True):
            if isinstance(found, int) and isinstance(wanted, int) and found != wanted:
                raise ValueError(
                    f"`{name}` must have the size of the output, {size}. "
                    f"Received: {name}.shape={tuple(field.shape)}"
                )
    if channels != group_channels * groups or filters % groups:
        raise ValueError(
            "`kernel` must have shape (kh, kw, channels // groups, filters), filters a multiple of "
            f"groups. Received: kernel.shape={tuple(kernel.shape)}, channels={channels}, "
            f"groups={groups}"
        )
    if channels % offset_groups:
        raise ValueError(
            "The number of channels must be a multiple of `offset_groups`. Received: "
            f"channels={channels}, offset_groups={offset_groups}"
        )
    if bias is not None and tuple(bias.shape) != (filters,):
        raise ValueError(f"`bias` must have shape ({filters},). Received: {tuple(bias.shape)}")
