"""Bilinear image resizing that matches Pillow and OpenCV bit for bit.

Published detectors were trained on images that one of the two had resized. Both compute with
integers and round to integers. Here weights are int32 and pixels are float32: all products and sums
are integers small enough to be exact, even in TensorFloat-32.

NumPy arrays stay NumPy arrays: JAX would compile every operation again for each image size.
"""

from types import SimpleNamespace

import numpy as np
from keras import ops
from PIL import Image

_BLOCK = 32  # output pixels whose inputs are gathered together
ARRAYS = SimpleNamespace(
    arange=np.arange,
    cast=np.asarray,
    clip=np.clip,
    convert_to_tensor=np.asarray,
    flip=np.flip,
    floor=np.floor,
    reshape=np.reshape,
    shape=np.shape,
    sum=np.sum,
    take=np.take,
    tile=np.tile,
    where=np.where,
)
"""NumPy's functions by their names in `keras.ops`."""


def resize_like_pillow(images, size):
    """Resizes images as `PIL.Image.resize(..., BILINEAR)` does: filtered when shrinking.

    First columns, then rows are summed with weights in units of 2**-22, and rounded to integers.
    Pillow 10.4 does the same. Pillow 13.0 starts with rows where that is less work, which changes
    up to a quarter of the values by 1.

    Args:
        images: Tensor or array of shape `(B, H, W, 3)`, integer values 0..255 of any dtype.
        size: Pair `(height, width)` of ints or scalar int32 tensors.

    Returns:
        Tensor `(B, height, width, 3)`, or an array for an array, with integer values in float32.
    """
    if isinstance(images, np.ndarray):
        return np.stack([_resize_by_pillow(image, size) for image in images])
    images = ops.transpose(images, (0, 2, 1, 3))
    images = ops.transpose(_sum_filtered(images, size[1]), (0, 2, 1, 3))
    return _sum_filtered(images, size[0])


def resize_like_opencv(images, size):
    """Resizes images as `cv2.resize(..., interpolation=INTER_LINEAR)` does: without a filter.

    Along each axis, two neighbors are summed with weights in units of 2**-11. Bits are truncated
    between columns and rows, and in both products of the rows.

    Args:
        images: Tensor or array of shape `(B, H, W, C)`, integer values 0..255 of any dtype.
        size: Pair `(height, width)` of ints or scalar int32 tensors.

    Returns:
        Tensor `(B, height, width, C)`, or an array for an array, with integer values in float32.
    """
    xp = ARRAYS if isinstance(images, np.ndarray) else ops
    height, width = xp.shape(images)[1:3]
    left, weight = _neighbors(xp, width, size[1])
    weight = xp.where((left < 0) | (left >= width - 1), 0.0, weight)[:, None]
    columns = (2048 - weight) * _take(xp, images, left, 2)
    columns = columns + weight * _take(xp, images, left + 1, 2)
    columns = xp.floor(columns / 16)
    above, weight = _neighbors(xp, height, size[0])
    weight = weight[:, None, None]
    rows = _product(xp, 2048 - weight, _take(xp, columns, above, 1))
    rows = rows + _product(xp, weight, _take(xp, columns, above + 1, 1))
    return xp.floor((rows + 2) / 4)


def _resize_by_pillow(image, size):
    """Resizes columns, then rows, even if this version of Pillow would start with rows."""
    height, width = size
    resized = Image.fromarray(image.astype("uint8"))
    for sides in ((width, len(image)), (width, height)):
        resized = resized.resize(sides, Image.Resampling.BILINEAR)
    return np.asarray(resized, "float32")


def _sum_filtered(images, new_size):
    """Applies Pillow's weights along the first side of `(B, size, M, C)`: `(B, new_size, M, C)`."""
    _, size, others, channels = ops.shape(images)
    pixels, weights = _pillow_weights(size, new_size)
    blocks, window = ops.shape(pixels)
    images = ops.reshape(images, (-1, size, others * channels))
    images = ops.take(images, ops.reshape(ops.clip(pixels, 0, size - 1), (-1,)), axis=1)
    images = ops.reshape(images, (-1, blocks, window, others * channels))
    # Digits of 11 bits: sums of 32 pixels stay below 2**24. Longer sums may lose their last bits.
    weights = ops.concatenate([weights // 2048, weights % 2048], axis=1)
    sums = ops.matmul(ops.cast(weights, "float32"), ops.cast(images, "float32"))
    high, low = sums[:, :, :_BLOCK], ops.floor(sums[:, :, _BLOCK:] / 2048)
    values = ops.floor((high + low) / 2048 + 0.5)
    return ops.reshape(values, (-1, blocks * _BLOCK, others, channels))[:, :new_size]


def _pillow_weights(size, new_size):
    """Returns input pixels `(blocks, window)`, and their weights `(blocks, _BLOCK, window)`.

    A triangle around the center of an output pixel, as wide as the larger of an input and an output
    pixel, is sampled at input pixels and normalized to a sum of 2**22, all with integers.
    """
    longer = larger(size, new_size)
    reach = (longer - 1) // new_size + 2
    places = ops.arange(((new_size - 1) // _BLOCK + 1) * _BLOCK, dtype="int32")
    places = ops.reshape(places, (-1, _BLOCK, 1))
    first = (2 * places[:, 0] + 1) * size // (2 * new_size) - reach
    window = (_BLOCK - 1) * size // new_size + 2 * reach + 2
    pixels = first + ops.arange(window, dtype="int32")
    distance = (2 * pixels[:, None] + 1) * new_size - (2 * places + 1) * size
    height = ops.maximum(2 * longer - ops.maximum(distance, -distance), 0)
    height = ops.where(((pixels >= 0) & (pixels < size))[:, None], height, 0)
    total = ops.maximum(ops.sum(height, axis=-1, keepdims=True), 1)
    weights, rest = _divide(height, total, (8, 7, 7))
    return pixels, weights + ops.cast(2 * rest >= total, "int32")


def _neighbors(xp, size, new_size):
    """Returns the first of two neighbors per output pixel, -1 to size - 1, and the other's weight.

    OpenCV rounds positions to float32, and then weights, in units of 2**-11, to the nearest integer
    (halves to even). Here positions are in units of 2**-24.
    """
    places = xp.arange(new_size, dtype="int32")
    position = (2 * places + 1) * size + new_size  # from pixel -1, in units of 1 / (2 * new_size)
    first = position // (2 * new_size) - 1
    fraction, rest = _divide(position % (2 * new_size), 2 * new_size, (8, 8, 8))
    powers = xp.convert_to_tensor([2**i for i in range(15)], "int32")
    unit = 1 + xp.sum(xp.where(first[:, None] >= powers, powers, 0), axis=1)  # float32's last bit
    fraction = xp.where(unit > 1, _round(xp, fraction, unit, rest > 0) * unit, fraction)
    weight = _round(xp, fraction, 2**13, (unit == 1) & (rest > 0))
    return first, xp.cast(weight, "float32")


def _divide(numerator, denominator, bits):
    """Computes `numerator * 2**sum(bits) // denominator`, below 2**31, and the remainder."""
    quotient, rest = numerator * 0, numerator
    for n in bits:
        rest = rest * 2**n
        quotient = quotient * 2**n + rest // denominator
        rest = rest % denominator
    return quotient, rest


def _round(xp, value, unit, is_more):
    """Rounds `value / unit` to the nearest integer; a half to even, or up if `is_more`."""
    quotient, rest = value // unit, value % unit
    up = (2 * rest > unit) | ((2 * rest == unit) & (is_more | (quotient % 2 == 1)))
    return quotient + xp.cast(up, "int32")


def _product(xp, weight, values):
    """Computes `weight * values // 2**16` for values below 2**16."""
    high = xp.floor(values / 256)
    low = values - high * 256
    return xp.floor((weight * high + xp.floor(weight * low / 256)) / 256)


def _take(xp, images, index, axis):
    """Takes pixels along an axis; indices beyond the border read the border."""
    last = xp.shape(images)[axis] - 1
    return xp.cast(xp.take(images, xp.clip(index, 0, last), axis=axis), "float32")


def larger(a, b):
    """Returns the maximum, as an int if both are ints."""
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else ops.maximum(a, b)
