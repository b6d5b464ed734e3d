"""Where the pixels and the boxes of an image go: resizing, cropping, flipping, padding."""

from collections.abc import Callable

import tensorflow as tf


def resize_bilinear(images: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Resizes `(batch, height, width, 3)` images to float32, antialiased when it shrinks them."""
    return tf.image.resize(images, size, antialias=True)


def resize_crop_flip(
    image: tf.Tensor,
    boxes: tf.Tensor,
    image_size: tuple[int, int],
    zoom: float | tf.Tensor = 1.0,
    corner: tuple[float, float] | tf.Tensor = (0.0, 0.0),
    flip: bool | tf.Tensor = False,
    resize: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = resize_bilinear,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Fits an image into a canvas, keeping its aspect ratio; the boxes follow the pixels.

    An image that is larger than the canvas after zooming is cropped to it. Sides are rounded as
    the detectors' preprocessor rounds them: `int(side * factor + 0.5)` in float64.

    Args:
        image: `(height, width, channels)`.
        boxes: `(num_boxes, 4)`, float32, xyxy pixels of `image`.
        image_size: `(height, width)` of the canvas in pixels.
        zoom: Factor on the size at which the whole image just fits. Defaults to `1.0`.
        corner: Where to crop, `(y, x)`, each in `[0, 1]`: `0` keeps the top or left end, `1` the
            bottom or right end. Defaults to `(0.0, 0.0)`.
        flip: Whether to mirror the result left to right. Defaults to `False`.
        resize: Resizes a batch of images to `(height, width)`, with half-pixel centres. Defaults
            to `resize_bilinear`.

    Returns:
        The image, float32, at most `image_size` large (not padded yet); the boxes in its pixels,
        not clipped to it; and the `(y, x)` scale, resized over original size.
    """
    canvas = tf.constant(image_size, "int32")
    original = tf.cast(tf.shape(image)[:2], "float64")
    factor = tf.reduce_min(tf.cast(canvas, "float64") / original) * tf.cast(zoom, "float64")
    resized = tf.maximum(tf.cast(original * factor + 0.5, "int32"), 1)
    scale = tf.cast(tf.cast(resized, "float64") / original, "float32")
    window = tf.minimum(resized, canvas)
    slack = tf.cast(resized - window, "float32")
    start = tf.cast(tf.round(tf.convert_to_tensor(corner) * slack), "int32")

    image = resize(image[None], resized)[0]
    image = tf.slice(image, [start[0], start[1], 0], [window[0], window[1], -1])
    boxes = boxes * tf.tile(scale[::-1], [2]) - tf.tile(tf.cast(start[::-1], "float32"), [2])

    width = tf.cast(window[1], "float32")
    left, top, right, bottom = tf.unstack(boxes, axis=-1)
    mirrored = tf.stack([width - right, top, width - left, bottom], axis=-1)
    image = tf.cond(tf.cast(flip, "bool"), lambda: tf.reverse(image, [1]), lambda: image)
    return image, tf.where(flip, mirrored, boxes), scale


def clip_to_visible(
    boxes: tf.Tensor, labels: tf.Tensor, height: tf.Tensor, width: tf.Tensor, min_visible: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Clips boxes to an image and drops those of which too little is left.

    Args:
        boxes: `(num_boxes, 4)`, float32, xyxy pixels.
        labels: `(num_boxes,)`.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        min_visible: Smallest share of a box's area that must remain.

    Returns:
        The boxes and labels that remain.
    """
    size = tf.cast(tf.stack([width, height, width, height]), boxes.dtype)
    clipped = tf.clip_by_value(boxes, 0.0, size)
    remaining = _area(clipped)
    visible = (remaining > 0) & (remaining >= min_visible * _area(boxes))
    return clipped[visible], labels[visible]


def _area(boxes: tf.Tensor) -> tf.Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
