"""Geometry of images and their boxes: canvases, resizing, cropping, flipping."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from keras_dyhead.detectors.preprocessor import resize_bilinear
from keras_dyhead.ops.arguments import are_numbers, check
from keras_dyhead.ops.boxes import box_area


def check_canvases(image_size: Sequence) -> tuple[tuple[int, int], ...]:
    """Returns one `(height, width)`, or several different ones, as a tuple of tuples."""
    sizes = np.atleast_2d(np.array(image_size, object))
    whole = are_numbers(sizes, (len(sizes), 2), int) and (sizes >= 1).all()
    canvases = tuple((int(height), int(width)) for height, width in sizes) if whole else ()
    expected = "a positive (height, width), or several different ones"
    check("image_size", image_size, 0 < len(canvases) == len(set(canvases)), expected)
    return canvases


def assign_canvases(
    sizes: np.ndarray, canvases: Sequence[tuple[int, int]], limits: tuple[int, int] | None = None
) -> np.ndarray:
    """Chooses the canvas where each image is largest. Ties go to the canvas it fills best.

    Takes `(num_images, 2)` heights and widths, and returns the int64 index of a canvas for each.
    Remaining ties go to the first canvas. `limits`: see `fitting_factor`.
    """
    with tf.device("CPU:0"):
        factors = fitting_factor(np.expand_dims(sizes, 1), canvases, limits).numpy()
    largest = factors >= factors.max(axis=1, keepdims=True) * (1 - 1e-9)
    return np.where(largest, np.prod(canvases, axis=-1), np.inf).argmin(axis=1)


def fitting_factor(
    size: tf.Tensor,
    canvas: Sequence[int] | tf.Tensor,
    limits: tuple[int | tf.Tensor, int | tf.Tensor] | None = None,
) -> tf.Tensor:
    """The factor that resizes images of `(..., 2)` heights and widths to fit a canvas.

    It is float64 `(...)`, computed as in the detectors' preprocessor. `limits` are lengths in
    pixels: the shorter side gets the first length, unless the longer side would exceed the second.
    `None` fills the canvas.
    """
    size = tf.cast(size, "float64")
    factor = tf.reduce_min(tf.cast(canvas, "float64") / size, axis=-1)
    if limits is not None:
        shorter, longer = (tf.cast(limit, "float64") for limit in limits)
        factor = tf.minimum(factor, shorter / tf.reduce_min(size, axis=-1))
        factor = tf.minimum(factor, longer / tf.reduce_max(size, axis=-1))
    return factor


def resize_into(
    image: tf.Tensor,
    boxes: tf.Tensor,
    canvas: Sequence[int] | tf.Tensor,
    factor: tf.Tensor,
    corner: Sequence[float | tf.Tensor] = (0.0, 0.0),
    resize: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = resize_bilinear,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Resizes an image, crops it to the canvas, and moves the boxes with the pixels.

    Sides are rounded as in the detectors' preprocessor: `int(side * factor + 0.5)` in float64. The
    crop is at `corner`, `(y, x)` from 0 (the top or left end) to 1. `resize` takes a batch of
    images and a `(height, width)`, and has half-pixel centers.

    Returns the float32 image, no larger than the canvas and not padded; the boxes in its pixels,
    not clipped; and the `(y, x)` scale, resized over original size.
    """
    original = tf.cast(tf.shape(image)[:2], "float64")
    resized = tf.maximum(tf.cast(original * factor + 0.5, "int32"), 1)
    scale = tf.cast(tf.cast(resized, "float64") / original, "float32")
    window = tf.minimum(resized, tf.cast(canvas, "int32"))
    slack = tf.cast(resized - window, "float32")
    start = tf.cast(tf.round(tf.convert_to_tensor(corner) * slack), "int32")
    image = resize(image[None], resized)[0]
    image, boxes = crop(image, boxes * tf.tile(scale[::-1], [2]), start, window)
    return image, boxes, scale


def crop(
    image: tf.Tensor, boxes: tf.Tensor, corner: tf.Tensor, size: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Crops `size` (height, width) pixels at `corner` (y, x). Moves xyxy boxes, unclipped."""
    image = tf.slice(image, [corner[0], corner[1], 0], [size[0], size[1], -1])
    return image, boxes - tf.tile(tf.cast(corner[::-1], "float32"), [2])


def flip_left_right(
    image: tf.Tensor, boxes: tf.Tensor, flip: bool | tf.Tensor = True
) -> tuple[tf.Tensor, tf.Tensor]:
    """Flips an image `(height, width, channels)` and its xyxy boxes horizontally if `flip`."""
    width = tf.cast(tf.shape(image)[1], "float32")
    left, top, right, bottom = tf.unstack(boxes, axis=-1)
    flipped = tf.stack([width - right, top, width - left, bottom], axis=-1)
    image = tf.cond(tf.cast(flip, "bool"), lambda: tf.reverse(image, [1]), lambda: image)
    return image, tf.where(flip, flipped, boxes)


def clip_to_visible(
    boxes: tf.Tensor, labels: tf.Tensor, height: tf.Tensor, width: tf.Tensor, min_visible: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Clips xyxy boxes to an image, and drops those that keep less than `min_visible`."""
    size = tf.cast(tf.stack([width, height, width, height]), boxes.dtype)
    clipped = tf.clip_by_value(boxes, 0.0, size)
    remaining = box_area(clipped)
    visible = (remaining > 0) & (remaining >= min_visible * box_area(boxes))
    return clipped[visible], labels[visible]
