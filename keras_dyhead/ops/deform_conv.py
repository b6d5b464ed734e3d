"""Modulated deformable convolution (DCNv2) on channels-last tensors."""

from collections.abc import Sequence

from keras import ops

from keras_dyhead.ops.arguments import at_least_float32, float_tensor, pair, whole_number
from keras_dyhead.ops.corners import corners_of_taps
from keras_dyhead.ops.gather_matmul import gather_matmul
from keras_dyhead.ops.matmul_gather import matmul_gather
from keras_dyhead.ops.sampling_grid import sampling_grid


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

    A tap reads position `output * strides - padding + tap * dilation_rate + offset`. Each of the
    four neighboring pixels counts as zero if it is outside the image. A tap at `<= -1` or
    `>= size`, or at a NaN position, is zero and has zero derivatives. If a tap lies exactly on a
    pixel, the derivative with respect to its offset is the one towards larger coordinates.

    Coordinates are computed in float32, or in float64 for float64 offsets. The matrix product has
    the dtype of `inputs`. Training stores no sampled columns: the gradient samples again.

    Args:
        inputs: Tensor of shape `(B, H, W, C)`; integers are converted to float32.
        offsets: Tensor of shape `(B, Ho, Wo, offset_groups * kh * kw * 2)`: displacement `(y, x)`
            in pixels per offset group and tap (row-major).
        mask: Tensor of shape `(B, Ho, Wo, offset_groups * kh * kw)` that multiplies the sampled
            values, or `None` for unmodulated convolution (DCNv1).
        kernel: Tensor of shape `(kh, kw, C // groups, F)`.
        bias: Tensor of shape `(F,)` or `None`.
        strides: Int or pair (y, x). Defaults to 1.
        padding: Int or pair of pixels added on both sides, `"valid"` (0) or `"same"`
            (`dilation_rate * (k - 1) // 2`). Symmetric as in DCN, not as in TensorFlow. Defaults to
            1.
        dilation_rate: Int or pair. Defaults to 1.
        groups: Number of groups of input and output channels. Defaults to 1.
        offset_groups: Number of groups of input channels with separate offsets. Defaults to 1.

    Returns:
        Tensor of shape `(B, Ho, Wo, F)`, dtype of `inputs`.

    Raises:
        ValueError: If ranks, channels or known sizes do not match, or if strides, dilation rate or
            groups are not positive.

    Example:

    >>> x = keras.random.normal((1, 8, 8, 4))
    >>> deform_conv2d(x, ops.zeros((1, 8, 8, 18)), None, keras.random.normal((3, 3, 4, 6))).shape
    (1, 8, 8, 6)

    Source: Zhu et al., "Deformable ConvNets v2" (CVPR 2019). The border rule is that of
    `torchvision.ops.deform_conv2d`, the zero derivative at exactly -1 that of the CUDA kernel in
    microsoft/DynamicHead.
    """
    inputs, offsets, kernel = float_tensor(inputs), float_tensor(offsets), float_tensor(kernel)
    mask, bias = (t if t is None else float_tensor(t) for t in (mask, bias))
    strides, dilation_rate = pair(strides, "strides"), pair(dilation_rate, "dilation_rate")
    shapes = {"inputs": inputs, "offsets": offsets, "mask": mask, "kernel": kernel, "bias": bias}
    check_shapes(
        **{name: None if x is None else tuple(x.shape) for name, x in shapes.items()},
        strides=strides,
        padding=padding,
        dilation_rate=dilation_rate,
        groups=groups,
        offset_groups=offset_groups,
    )
    kernel_size = tuple(kernel.shape[:2])
    padding = resolve_padding(padding, kernel_size, dilation_rate)
    batch, height, width, channels = ops.shape(inputs)
    size = _output_size((height, width), kernel_size, strides, padding, dilation_rate)
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
    """Applies a deformable convolution to one or several flattened maps.

    Args:
        rows: Tensor of shape `(B, R, C)`: the pixels of one map, or of several one after the other.
        grid: `SamplingGrid` of the `P` output positions. If it has `stored_height` and
            `stored_width`, sparse products must be available and groups are not supported.
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

    offsets = ops.cast(offsets, at_least_float32(offsets.dtype))
    offsets = _taps_first(offsets, (batch, positions, offset_groups, num_taps, 2))
    if mask is not None:
        mask = ops.cast(mask, offsets.dtype)
        mask = _taps_first(mask, (batch, positions, offset_groups, num_taps, 1))
        mask = ops.squeeze(mask, axis=-1)
    indices, weights = corners_of_taps(grid, *ops.unstack(offsets, axis=-1), mask)

    # Each (image, pixel, offset group) is a separate row, gathered by one flat index.
    image = ops.reshape(ops.arange(batch, dtype="int32"), (batch, 1, 1, 1, 1)) * num_rows
    indices = indices + image
    if offset_groups > 1:
        group = ops.arange(offset_groups, dtype="int32")[:, None]
        indices = indices * offset_groups + group
    flat = (batch * positions, num_taps * offset_groups, indices.shape[-1])
    indices, weights = ops.reshape(indices, flat), ops.reshape(weights, flat)
    rows = ops.reshape(rows, (batch * num_rows * offset_groups, channels // offset_groups))
    kernel = ops.cast(kernel, rows.dtype)
    if grid.stored_height is not None:
        outputs = matmul_gather(rows, indices, weights, kernel)
    else:
        kernel = ops.reshape(kernel, (num_taps, group_channels, filters))
        outputs = gather_matmul(rows, indices, weights, kernel, groups)
    return ops.reshape(outputs, (batch, positions, filters))


def resolve_padding(padding, kernel_size, dilation_rate) -> tuple[int, int]:
    """Converts `"same"`, `"valid"`, an int or a pair to pixels per side."""
    if not isinstance(padding, str):
        return pair(padding, "padding", smallest=0)
    if padding == "valid":
        return (0, 0)
    if padding == "same":
        return tuple(d * (k - 1) // 2 for k, d in zip(kernel_size, dilation_rate, strict=True))
    raise ValueError(
        '`padding` must be "same", "valid", an int or a pair of ints. '
        f"Received: padding={padding!r}"
    )


def _taps_first(tensor, shape):
    """Turns `(B, P, groups * K * n)`, read as `shape`, into `(B, P, K, groups, n)`."""
    batch, positions, groups, taps, n = shape
    if groups == 1:
        return ops.reshape(tensor, (batch, positions, taps, 1, n))
    return ops.swapaxes(ops.reshape(tensor, shape), 2, 3)


def check_shapes(
    inputs, offsets, mask, kernel, bias, strides, padding, dilation_rate, groups, offset_groups
):
    """Raises a `ValueError` if known shapes of the arguments of `deform_conv2d` do not match."""
    maps = {"inputs": inputs, "offsets": offsets, "mask": mask, "kernel": kernel}
    for name, shape in maps.items():
        if shape is not None and len(shape) != 4:
            raise ValueError(f"`{name}` must have 4 dimensions. Received: {name}.shape={shape}")
    if 0 in kernel:
        raise ValueError(f"`kernel` must not have an empty axis. Received: kernel.shape={kernel}")
    whole_number(groups, "groups")
    whole_number(offset_groups, "offset_groups")
    kernel_height, kernel_width, group_channels, filters = kernel
    padding = resolve_padding(padding, kernel[:2], dilation_rate)
    size = _output_size(inputs[1:3], kernel[:2], strides, padding, dilation_rate)
    # Empty maps give empty outputs.
    if any(n is not None and n < min(full, 1) for full, n in zip(inputs[1:3], size, strict=True)):
        raise ValueError(
            "`inputs` with `padding` must be at least as large as the kernel. "
            f"Received: inputs.shape={inputs}, kernel.shape={kernel}, padding={padding}"
        )
    for name, shape, numbers in (("offsets", offsets, 2), ("mask", mask, 1)):
        if shape is None:
            continue
        channels = numbers * kernel_height * kernel_width * offset_groups
        if shape[-1] != channels:
            raise ValueError(
                f"`{name}` must have shape (batch, height, width, {channels}) for a "
                f"{kernel_height}x{kernel_width} kernel and offset_groups={offset_groups}. "
                f"Received: {name}.shape={shape}"
            )
        if not _may_be_equal(shape[1:3], size):
            raise ValueError(
                f"`{name}` must have the size of the output, {size}. Received: {name}.shape={shape}"
            )
        if not _may_be_equal(shape[:1], inputs[:1]):
            raise ValueError(
                f"`{name}` must have the batch size of `inputs`. "
                f"Received: {name}.shape={shape}, inputs.shape={inputs}"
            )
    channels = inputs[-1]
    if channels != group_channels * groups or filters % groups:
        raise ValueError(
            "`kernel` must have shape (kh, kw, channels // groups, filters), and filters must be a "
            f"multiple of groups. Received: kernel.shape={kernel}, channels={channels}, "
            f"groups={groups}"
        )
    if channels % offset_groups:
        raise ValueError(
            "The number of channels must be a multiple of `offset_groups`. Received: "
            f"channels={channels}, offset_groups={offset_groups}"
        )
    if bias is not None and tuple(bias) != (filters,):
        raise ValueError(f"`bias` must have shape ({filters},). Received: {tuple(bias)}")


def _may_be_equal(found, wanted):
    """Whether sizes are equal wherever both are known."""
    return all(a is None or b is None or a == b for a, b in zip(found, wanted, strict=True))


def _output_size(size, kernel_size, strides, padding, dilation_rate):
    """Returns the output's (height, width), `None` where the input's is unknown."""
    return tuple(
        None if n is None else (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(size, padding, dilation_rate, kernel_size, strides, strict=True)
    )
