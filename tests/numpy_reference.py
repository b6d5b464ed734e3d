"""Slow float64 references written from the formulas: loops over positions and taps, no tricks."""

import numpy as np


def deform_conv2d(inputs, offsets, mask, kernel, stride=1, padding=1, dilation=1, grad=None):
    """Modulated deformable convolution, one offset group, channels-last.

    Positions are added in the dtype of `offsets`, all else is float64. Returns the output, and with
    `grad` also the gradients of sum(output * grad) to inputs, offsets, mask and kernel.
    """
    batch, height, width, channels = inputs.shape
    kh, kw, _, filters = kernel.shape
    inputs, kernel, mask = (np.asarray(a, "float64") for a in (inputs, kernel, mask))
    _, rows, columns, _ = offsets.shape
    output = np.zeros((batch, rows, columns, filters))
    grad_inputs, grad_kernel = np.zeros_like(inputs), np.zeros_like(kernel)
    grad_offsets, grad_mask = np.zeros(offsets.shape), np.zeros(mask.shape)
    for b, i, j, tap in np.ndindex(batch, rows, columns, kh * kw):
        ky, kx = divmod(tap, kw)
        base = offsets.dtype.type(i * stride - padding + ky * dilation)
        y = float(base + offsets[b, i, j, 2 * tap])
        base = offsets.dtype.type(j * stride - padding + kx * dilation)
        x = float(base + offsets[b, i, j, 2 * tap + 1])
        if not (-1 < y < height and -1 < x < width):  # also where y or x is NaN
            continue
        top, left = int(np.floor(y)), int(np.floor(x))
        value, slope_y, slope_x = np.zeros(channels), np.zeros(channels), np.zeros(channels)
        corners = []
        for row, wy, dy in ((top, 1 - (y - top), -1), (top + 1, y - top, 1)):
            for column, wx, dx in ((left, 1 - (x - left), -1), (left + 1, x - left, 1)):
                if 0 <= row < height and 0 <= column < width:
                    pixel = inputs[b, row, column]
                    value += wy * wx * pixel
                    slope_y += dy * wx * pixel
                    slope_x += wy * dx * pixel
                    corners.append((row, column, wy * wx))
        m = mask[b, i, j, tap]
        output[b, i, j] += m * value @ kernel[ky, kx]
        if grad is None:
            continue
        grad_value = kernel[ky, kx] @ np.asarray(grad[b, i, j], "float64")
        grad_kernel[ky, kx] += np.outer(m * value, grad[b, i, j])
        grad_mask[b, i, j, tap] += value @ grad_value
        grad_offsets[b, i, j, 2 * tap] += m * slope_y @ grad_value
        grad_offsets[b, i, j, 2 * tap + 1] += m * slope_x @ grad_value
        for row, column, weight in corners:
            grad_inputs[b, row, column] += m * weight * grad_value
    if grad is None:
        return output
    return output, grad_inputs, grad_offsets, grad_mask, grad_kernel


def resize_align_corners(inputs, size):
    """Bilinear interpolation in which the corner pixels of input and output coincide."""
    batch, height, width, channels = inputs.shape
    output = np.zeros((batch, *size, channels))
    for i, j in np.ndindex(*size):
        y = i * (height - 1) / (size[0] - 1) if size[0] > 1 else 0.0
        x = j * (width - 1) / (size[1] - 1) if size[1] > 1 else 0.0
        top, left = min(int(y), height - 1), min(int(x), width - 1)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        fy, fx = y - top, x - left
        output[:, i, j] = (1 - fy) * (1 - fx) * inputs[:, top, left]
        output[:, i, j] += (1 - fy) * fx * inputs[:, top, right]
        output[:, i, j] += fy * (1 - fx) * inputs[:, bottom, left]
        output[:, i, j] += fy * fx * inputs[:, bottom, right]
    return output


def conv3x3(inputs, kernel, bias):
    """Ordinary 3x3 convolution with one pixel of zero padding."""
    _, height, width, _ = inputs.shape
    padded = np.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return bias + sum(
        padded[:, ky : ky + height, kx : kx + width] @ kernel[ky, kx] for ky, kx in np.ndindex(3, 3)
    )


def group_norm(inputs, gamma, beta, groups=16):
    """Normalizes every sample's groups of channels to mean 0 and variance 1."""
    batch, height, width, channels = inputs.shape
    grouped = inputs.reshape(batch, height * width, groups, channels // groups)
    mean = grouped.mean(axis=(1, 3), keepdims=True)
    variance = grouped.var(axis=(1, 3), keepdims=True)
    return ((grouped - mean) / np.sqrt(variance + 1e-5)).reshape(inputs.shape) * gamma + beta


def hard_sigmoid(x):
    """The released code's: relu6(x + 3) / 6."""
    return np.clip((x + 3) / 6, 0, 1)


def sigmoid(x):
    """Logistic function."""
    return 1 / (1 + np.exp(-x))


def dyhead_block(pyramid, w, alignment="paper"):
    """One DyHead block from the formulas; `w` maps our weight names to float64 arrays."""
    outputs = []
    for level, x in enumerate(pyramid):
        field = conv3x3(
            x, w["spatial_attention/offset_conv/kernel"], w["spatial_attention/offset_conv/bias"]
        )
        offsets, mask = field[..., :18].astype("float32"), sigmoid(field[..., 18:])

        def sample(branch, source, stride=1, offsets=offsets, mask=mask):
            kernel, bias = (w[f"spatial_attention/{branch}_{n}"] for n in ("kernel", "bias"))
            sampled = deform_conv2d(source, offsets, mask, kernel, stride) + bias
            gamma, beta = (w[f"spatial_attention/{branch}_{n}"] for n in ("gamma", "beta"))
            return group_norm(sampled, gamma, beta)

        branches = [sample("mid", x)]
        if level > 0:
            branches.append(sample("low", pyramid[level - 1], stride=2))
        if level < len(pyramid) - 1:
            assert alignment == "paper"
            branches.append(sample("high", resize_align_corners(pyramid[level + 1], x.shape[1:3])))

        def gate(branch):
            logit = branch.mean(axis=(1, 2)) @ w["scale_attention/gate/kernel"]
            return hard_sigmoid(np.maximum(logit + w["scale_attention/gate/bias"], 0))

        fused = sum(gate(branch)[:, None, None] * branch for branch in branches) / len(branches)
        hidden = fused.mean(axis=(1, 2)) @ w["task_attention/squeeze/kernel"]
        hidden = np.maximum(hidden + w["task_attention/squeeze/bias"], 0)
        theta = hidden @ w["task_attention/excite/kernel"] + w["task_attention/excite/bias"]
        a1, b1, a2, b2 = np.split(hard_sigmoid(theta)[:, None, None] - 0.5, 4, axis=-1)
        outputs.append(np.maximum(fused * (2 * a1 + 1) + b1, fused * 2 * a2 + b2))
    return outputs
