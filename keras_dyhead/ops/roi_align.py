"""RoIAlign: resamples regions of a feature pyramid to maps of one size."""

from collections.abc import Sequence

from keras import ops

from keras_dyhead.ops.arguments import at_least_float32, float_tensor
from keras_dyhead.ops.chunks import after, num_chunks, scan_chunks
from keras_dyhead.ops.rows import MapRows, scatter_add_rows, take_rows

_USUAL_PIXELS = 1024  # of a region, for planning if the number is known only at run time


def roi_align(
    maps: Sequence,
    boxes,
    levels,
    strides: Sequence[int],
    size: int = 7,
    sampling_ratio: int | None = None,
    max_pixels: int | None = None,
):
    """Averages bilinear samples over `size` x `size` equal bins of every region.

    A bin of `h` x `w` pixels holds `ceil(h)` x `ceil(w)` evenly spaced samples. Pixel centers lie
    at half-integers ("aligned"). A sample more than a pixel outside the map counts as zero; a
    closer one reads the border.

    Samples are never stored. Their weights for the pixels around them are summed in closed form,
    and each pixel of a region is read once, however many samples are near it. Training does not
    store the pixels of regions: the gradient reads them again. Boxes get no gradient.

    Args:
        maps: Maps `(B, H_l, W_l, C)` of the levels; integers are converted to float32.
        boxes: `(B, R, 4)` xyxy boxes in image pixels.
        levels: `(B, R)` int32, number of the map that each region is read from.
        strides: Image pixels per pixel of each map.
        size: int. Bins in each direction. Defaults to 7.
        sampling_ratio: int. Samples per bin in each direction. Defaults to `None`: as many as
            above.
        max_pixels: int. Maximum number of map pixels per region; further pixels are not read. It
            makes all shapes static, which XLA needs. Defaults to `None`: the largest region at run
            time.

    Returns:
        `(B, R, size, size, C)`, dtype of the maps. Weights are computed in float32.

    Source: He et al., "Mask R-CNN", ICCV 2017, section 3; sampling and borders as in detectron2 and
    mmcv (`aligned=True`).
    """
    rows = MapRows([float_tensor(x) for x in maps])
    batch, num_rows, channels = ops.shape(rows.values)
    regions = ops.shape(boxes)[1]
    levels = ops.cast(levels, "int32")
    image = ops.arange(batch, dtype="int32")[:, None] + ops.zeros_like(levels)
    image, levels = ops.reshape(image, (-1,)), ops.reshape(levels, (-1,))

    def of_level(values):
        return ops.take(ops.cast(ops.stack(list(values)), "int32"), levels)

    ends = ops.stop_gradient(ops.reshape(ops.cast(boxes, "float32"), (-1, 4)))
    ends = ends / ops.cast(of_level(strides), "float32")[:, None] - 0.5
    heights, widths = zip(*rows.sizes, strict=True)
    static = max_pixels is not None
    first_y, count_y, weights_y = _pixels_along(
        ends[:, 1], ends[:, 3], of_level(heights), size, sampling_ratio, heights if static else None
    )
    first_x, count_x, weights_x = _pixels_along(
        ends[:, 0], ends[:, 2], of_level(widths), size, sampling_ratio, widths if static else None
    )
    width = of_level(widths)
    first_row = image * num_rows + of_level(rows.starts) + first_y * width + first_x
    if not static:
        max_pixels = ops.max(count_y * count_x, initial=0)
    outputs = _weigh_regions(
        ops.reshape(rows.values, (-1, channels)),
        (first_row, width, count_y, count_x, weights_y, weights_x),
        max_pixels,
    )
    return ops.reshape(outputs, (batch, regions, size, size, channels))


def _pixels_along(start, end, side, size, sampling_ratio, sides):
    """Finds the pixels that each region reads along one axis, and their weights in every bin.

    Args:
        start: `(N,)` float32, where each region begins, in pixels whose centers are integers.
        end: `(N,)` float32, where it ends.
        side: `(N,)` int32, pixels of the map.
        size: int. Number of bins.
        sampling_ratio: Samples per bin, or `None`.
        sides: Pixels of every map, or `None` to find the number of pixels needed at run time.

    Returns:
        Number of the first pixel `(N,)`, number of pixels `(N,)`, and weights `(N, pixels, bins)`.
    """
    extent = end - start
    # Positive: a region without extent has samples at equal positions, or none.
    bin_side = ops.maximum(extent, 1e-5) / size
    if sampling_ratio is None:
        samples = ops.maximum(ops.ceil(extent / size), 0.0)
        # XLA multiplies by a rounded 1 / size, which may give one sample too many.
        samples -= ops.cast((samples - 1) * size >= extent, "float32") * ops.sign(samples)
    else:
        samples = ops.full_like(extent, sampling_ratio)
    step = bin_side / ops.maximum(samples, 1.0)
    first, last = (
        ops.clip(ops.cast(ops.floor(pixel), "int32"), 0, side - 1)
        for pixel in (start + step / 2, start + size * bin_side - step / 2 + 1.0)
    )
    count = last - first + 1
    num_pixels = ops.max(count, initial=0) if sides is None else max(sides)

    pixels = first[:, None] + ops.arange(num_pixels + 1, dtype="int32")
    bins = ops.arange(size, dtype="float32")
    samples, step, side = samples[:, None, None], step[:, None, None], side[:, None, None]
    first_sample = (start[:, None] + bins * bin_side[:, None])[:, None] + step / 2
    passed = _samples_passed(pixels[:, :, None], first_sample, step, samples, side)
    weights = (passed[:, 1:] - passed[:, :-1]) / ops.maximum(samples, 1.0)
    return first, count, weights


def _samples_passed(pixel, first_sample, step, samples, side):
    """Counts the samples before a pixel; a sample less than one pixel before it counts in part.

    Between two pixels, the count grows by the weight of the samples for the first of them. Samples
    beyond the border count for the border pixel, or for none if they are a pixel or more away.
    """
    pixel, side = ops.cast(pixel, "float32"), ops.cast(side, "float32")

    def up_to(position):
        return ops.clip(ops.floor((position - first_sample) / step) + 1, 0.0, samples)

    def before(position):
        return ops.clip(ops.ceil((position - first_sample) / step), 0.0, samples)

    whole, partly = up_to(pixel - 1), before(pixel)
    # The sum of (pixel - sample) over the samples from number `whole` to `partly` - 1.
    fractions = (partly - whole) * (pixel - first_sample)
    fractions -= step * (partly * (partly - 1) - whole * (whole - 1)) / 2
    passed = whole + fractions
    passed = ops.where(pixel <= 0, before(-1.0), passed)
    return ops.where(pixel >= side, up_to(side), passed)


def _weigh_regions(rows, fields, max_pixels):
    """Sums the pixels of every region times their weights, in chunks.

    Args:
        rows: `(all pixels, C)`.
        fields: For each of N regions: number of its first row, number of rows per line of its map,
            numbers of its pixels in y and x, and their weights `(N, pixels, bins)` in y and x.
        max_pixels: int or scalar tensor.

    Returns:
        `(N, bins * bins, C)`, dtype of `rows`.
    """
    num_rows, channels = ops.shape(rows)
    num_bins = fields[-1].shape[-1] ** 2
    usual = max_pixels if isinstance(max_pixels, int) else _USUAL_PIXELS
    regions, width = ops.shape(fields[0])[0], channels + num_bins
    chunks = num_chunks(regions, (usual, width), rows.dtype)
    # Each chunk of the gradient passes over the whole pyramid, so chunks are fewer and larger.
    gradient_chunks = num_chunks(regions, (usual, -(-width // 8)), rows.dtype)
    accumulator = at_least_float32(rows.dtype)

    @ops.custom_gradient
    def forward(rows, *fields):
        def outputs_of_chunk(_, fields):
            index, weights = _pixels_of(fields, max_pixels, rows.dtype)
            pixels = take_rows(rows, index)
            return (), (ops.matmul(weights, pixels),)

        _, (outputs,) = scan_chunks(
            outputs_of_chunk, (), fields, chunks, like=[((num_bins, channels), rows.dtype)]
        )

        def gradient(*args, upstream=None):
            grad = args[0] if upstream is None else upstream
            # Otherwise the runtime would do this during the forward pass and keep the result.
            fields_again = after(grad, fields)

            def gradients_of_chunk(carry, arrays):
                grad, *fields = arrays
                index, weights = _pixels_of(fields, max_pixels, rows.dtype)
                updates = ops.cast(ops.einsum("rbp,rbc->rpc", weights, grad), accumulator)
                updates = ops.reshape(updates, (-1, channels))
                return (scatter_add_rows(carry[0], updates, ops.reshape(index, (-1,))),), ()

            zeros = ops.zeros((num_rows, channels), accumulator)
            (grad_rows,), _ = scan_chunks(
                gradients_of_chunk, (zeros,), (grad, *fields_again), gradient_chunks, like=[]
            )
            return ops.cast(grad_rows, rows.dtype), *(None for _ in fields)

        return outputs, gradient

    return forward(rows, *fields)


def _pixels_of(fields, max_pixels, dtype):
    """Returns row numbers `(N, pixels)` and weights `(N, bins * bins, pixels)` of all pixels."""
    first_row, width, count_y, count_x, weights_y, weights_x = fields
    regions, lines, num_bins = ops.shape(weights_y)
    columns = ops.shape(weights_x)[1]
    place = ops.arange(max_pixels, dtype="int32")[None]
    used = place < (count_y * count_x)[:, None]
    place = ops.where(used, place, 0)
    # A chunk that is not full has regions without pixels.
    y, x = place // ops.maximum(count_x, 1)[:, None], place % ops.maximum(count_x, 1)[:, None]
    region = ops.arange(regions, dtype="int32")[:, None]
    weights_y = take_rows(ops.reshape(weights_y, (-1, num_bins)), region * lines + y)
    weights_x = take_rows(ops.reshape(weights_x, (-1, num_bins)), region * columns + x)
    weights_y = ops.swapaxes(ops.where(used[..., None], weights_y, 0.0), 1, 2)
    weights = weights_y[:, :, None] * ops.swapaxes(weights_x, 1, 2)[:, None]
    weights = ops.reshape(weights, (regions, num_bins * num_bins, max_pixels))
    return first_row[:, None] + y * width[:, None] + x, ops.cast(weights, dtype)
