"""Which pixels the taps of a deformable convolution read, and with what weights."""

import keras
from keras import ops


def corners_of_taps(grid, offset_y, offset_x, mask):
    """Returns row numbers and weights of the pixels around each tap, both `(B, P, K, G, J)`.

    `J` is 4, or 9 for a map that is sampled as if it were enlarged: along each axis, a position
    between two pixels of the enlarged map depends on at most three stored pixels.

    Args:
        grid: `SamplingGrid` of the `P` positions.
        offset_y: Displacement of each tap, `(B, P, K, G)`, at least float32.
        offset_x: Likewise.
        mask: Factor of each tap, `(B, P, K, G)`, or `None`.
    """
    fields = {
        name: ops.expand_dims(ops.convert_to_tensor(field), -1)
        for name, field in grid._asdict().items()
        if field is not None
    }
    start, width = fields["start"], fields.get("stored_width", fields["width"])

    def neighbors(axis, size, offset):
        position = ops.cast(fields[axis] + fields[f"taps_{axis}"], offset.dtype) + offset
        return _linear_neighbors(position, fields[size], fields.get(f"stored_{size}"))

    def weigh(offset_y, offset_x, *mask):
        _, weights_y = neighbors("y", "height", offset_y)
        _, weights_x = neighbors("x", "width", offset_x)
        for factor in mask:
            weights_y = [weight * factor for weight in weights_y]
        return ops.stack([wy * wx for wy in weights_y for wx in weights_x], axis=-1)

    pixels_y, _ = neighbors("y", "height", offset_y)
    pixels_x, _ = neighbors("x", "width", offset_x)
    rows = [start + y * width for y in pixels_y]
    indices = ops.stack([row + x for row in rows for x in pixels_x], axis=-1)
    # The gradient recomputes a dozen intermediate results per tap instead of storing them.
    arguments = (offset_y, offset_x) if mask is None else (offset_y, offset_x, mask)
    return indices, keras.remat(weigh)(*arguments)


def _linear_neighbors(position, size, stored_size):
    """Returns the pixels around a position on one axis, clipped, and their weights, zero outside.

    There are two, or three of a map of `stored_size` that is sampled as if enlarged to `size`.
    """
    size = ops.cast(size, position.dtype)
    inside = ops.logical_and(position > -1, position < size)  # False for NaN
    position = ops.where(inside, position, 0.0)
    low = ops.cast(ops.floor(position), position.dtype)
    fraction = position - low
    weights = [
        ops.where(ops.logical_and(inside, low >= 0), 1 - fraction, 0.0),
        ops.where(ops.logical_and(inside, low < size - 1), fraction, 0.0),
    ]
    pixels = [ops.maximum(low, 0), ops.minimum(low + 1, size - 1)]
    pixels = [ops.cast(pixel, "int32") for pixel in pixels]
    if stored_size is None:
        return pixels, weights
    return _before_enlarging(pixels, weights, ops.cast(size, "int32") - 1, stored_size - 1)


def _before_enlarging(pixels, weights, last, stored_last):
    """Turns two neighboring pixels of an enlarged map, and their weights, into three stored ones.

    Pixel `i` of the enlarged map lies at `i * stored_last / last` of the stored map, and is the
    linear interpolation of the two pixels around it.
    """
    dtype, last = weights[0].dtype, ops.maximum(last, 1)
    # Integers: the floor of a rounded quotient might change when the gradient recomputes it.
    first = pixels[0] * stored_last // last
    stored = [first + step for step in range(3)]
    places = [ops.cast(x * stored_last, dtype) / ops.cast(last, dtype) for x in pixels]
    weights = [
        sum(
            weight * ops.relu(1 - ops.abs(place - ops.cast(pixel, dtype)))
            for place, weight in zip(places, weights, strict=True)
        )
        for pixel in stored
    ]
    return [ops.minimum(pixel, stored_last) for pixel in stored], weights
