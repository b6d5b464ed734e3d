"""How training images are varied, and their boxes with them."""

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_dyhead.coco.checks import check
from keras_dyhead.coco.geometry import (
    clip_to_visible,
    crop,
    fitting_factor,
    flip_left_right,
    resize_bilinear,
    resize_into,
)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How `load_coco` varies training images: size, crop, flip and colors.

    An image is cropped, resized, cut to its canvas, mirrored and colored, in this order, each
    with its own probability or range. Boxes follow the pixels exactly; each image is resized once.
    In a mosaic, all this is done to each of its four images, whose canvas is a part of the whole.

    Args:
        horizontal_flip: Probability of a left-right flip. Defaults to `0.5`.
        scale: Smallest and largest zoom, drawn uniformly and relative to the size at which the
            image just fits its canvas (or which the preprocessor gives it): an enlarged image is
            cropped to the canvas at a random place, a reduced one padded. `(0.1, 2.0)` is
            large-scale jitter. `None` means no zoom. Defaults to `(0.8, 1.25)`.
        sizes: Shorter sides in pixels, one of which is drawn for each image: multi-scale training.
            The image becomes smaller where `max_side` or its canvas demands it. They take the
            place of `scale`. Defaults to `None`.
        max_side: Longest side in pixels with `sizes`. Defaults to `1333`.
        crop: Probability of cutting out a part of the image before it is resized. Defaults to
            `0.0`.
        crop_size: Smallest and largest height and width of that part in pixels, each drawn by
            itself and at most the image's. Defaults to `(384, 600)`.
        crop_sides: Shorter sides in pixels, one of which is drawn for each crop: the size of the
            image that `crop_size` counts on. `None` counts on the pixels of the file. Defaults to
            `(400, 500, 600)`; with `crop=0.5` and `sizes=range(480, 801, 32)` that is the
            published "resize, or resize-crop-resize" training of Swin and DETR.
        brightness: Largest change of the values, as a share of 255. Defaults to `0.0`.
        contrast: Largest change of the contrast, as a share of it, under 1. Defaults to `0.0`.
        saturation: Largest change of the saturation, as a share of it, under 1. Defaults to `0.0`.
        hue: Largest turn of the hue, as a share of the full circle, at most 0.5. Defaults to
            `0.0`.
        mosaic: Probability of laying four images around a random point of the canvas: the image,
            and three drawn from the whole data set. Each is resized as if it had the canvas to
            itself, and cut to its part. Defaults to `0.0`.
        min_visible: Smallest share of its area that a box must keep to stay a target when the
            image is cropped. Defaults to `0.25`.

    Raises:
        ValueError: If an argument is out of range, or both `sizes` and a `scale` are given.

    Example:
    ```python
    multi_scale = Augmentation(sizes=range(480, 801, 32), crop=0.5)
    train = load_coco(
        "train", "train.json", image_size=((800, 1344), (1344, 800)), training=True,
        augmentation=multi_scale,
    )
    ```

    Colors are changed by `tf.image`: the random color layers of Keras draw from a state of
    their own, so that what an image gets would depend on the images before it.
    """

    horizontal_flip: float = 0.5
    scale: tuple[float, float] | None = (0.8, 1.25)
    sizes: Sequence[int] | None = None
    max_side: int = 1333
    crop: float = 0.0
    crop_size: tuple[int, int] = (384, 600)
    crop_sides: Sequence[int] | None = (400, 500, 600)
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    mosaic: float = 0.0
    min_visible: float = 0.25

    def __post_init__(self):
        for name in ("scale", "sizes", "crop_size", "crop_sides"):  # lists of a JSON file, ranges
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if self.sizes is not None:
            self._check("sizes", len(self.sizes) > 0 and min(self.sizes) > 0, "positive lengths")
            if self.scale not in (None, type(self).scale):
                raise ValueError(
                    "`sizes` take the place of `scale`: give one of them. "
                    f"Received: sizes={self.sizes}, scale={self.scale}"
                )
            object.__setattr__(self, "scale", None)
        largest = max(self.sizes or (1,))
        self._check("max_side", self.max_side >= largest, f"at least {largest}")
        for name in ("horizontal_flip", "crop", "mosaic"):
            self._check(name, 0 <= getattr(self, name) <= 1, "a probability")
        for name in ("scale", "crop_size"):
            low, high = getattr(self, name) or (1, 1)
            self._check(name, 0 < low <= high, "(smallest, largest), both positive")
        sides = self.crop_sides or (1,)
        self._check("crop_sides", min(sides) > 0, "positive lengths")
        self._check("brightness", 0 <= self.brightness <= 1, "between 0 and 1")
        for name in ("contrast", "saturation"):
            self._check(name, 0 <= getattr(self, name) < 1, "at least 0 and under 1")
        self._check("hue", 0 <= self.hue <= 0.5, "between 0 and 0.5")
        self._check("min_visible", 0 <= self.min_visible <= 1, "between 0 and 1")

    def _check(self, name: str, valid: bool, expected: str) -> None:
        check(name, getattr(self, name), valid, expected)


def augment(
    image: tf.Tensor,
    boxes: tf.Tensor,
    labels: tf.Tensor,
    canvas: tf.Tensor,
    augmentation: Augmentation,
    seed: tf.Tensor,
    limits: tuple[int, int] | None = None,
    resize: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = resize_bilinear,
    window: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Varies one image; the same seed varies it in the same way.

    Args:
        image: `(height, width, 3)`, RGB 0..255.
        boxes: `(num_boxes, 4)`, float32, xyxy pixels.
        labels: `(num_boxes,)`.
        canvas: `(height, width)` that the image is made to fit, before it is zoomed.
        augmentation: What to do.
        seed: Two integers.
        limits: Lengths of the shorter and longer side before the zoom, see `fitting_factor`.
        resize: See `resize_into`.
        window: `(height, width)` that the result must not exceed; by default the canvas.

    Returns:
        The image, float32, at most as large as the window; the boxes, clipped to it, and the
        labels that are left.
    """
    draws = tf.unstack(tf.random.stateless_uniform([10], seed))
    flip, zoom, *corner, crop_chance, crop_side = draws[:6]
    if augmentation.crop:
        part = _crop_window(tf.shape(image)[:2], augmentation, crop_side, draws[6:])
        cropped = crop(image, boxes, *part)
        kept = crop_chance >= augmentation.crop
        image, boxes = tf.cond(kept, lambda: (image, boxes), lambda: cropped)
    if augmentation.sizes is not None:
        limits, factor = (_choose(augmentation.sizes, zoom), augmentation.max_side), 1.0
    else:
        low, high = augmentation.scale or (1.0, 1.0)
        factor = low + (high - low) * zoom
    factor = fitting_factor(tf.shape(image)[:2], canvas, limits) * tf.cast(factor, "float64")
    window = canvas if window is None else window
    image, boxes, _ = resize_into(image, boxes, window, factor, corner, resize)
    image, boxes = flip_left_right(image, boxes, flip < augmentation.horizontal_flip)
    boxes, labels = clip_to_visible(
        boxes, labels, *tf.unstack(tf.shape(image)[:2]), augmentation.min_visible
    )
    return _vary_colors(image, augmentation, seed), boxes, labels


def _choose(values: Sequence[int], draw: tf.Tensor) -> tf.Tensor:
    index = tf.cast(draw * len(values), "int32")
    return tf.gather(tf.constant(values, "int32"), tf.minimum(index, len(values) - 1))


def _crop_window(size, augmentation, side_draw, draws):
    """Top left corner, height and width of a part of an image, in its own whole pixels."""
    size = tf.cast(size, "float32")
    factor = 1.0
    if augmentation.crop_sides is not None:
        side = _choose(augmentation.crop_sides, side_draw)
        factor = tf.cast(side, "float32") / tf.reduce_min(size)
    low, high = (tf.minimum(float(side), size * factor) for side in augmentation.crop_size)
    lengths = (low + (high - low) * tf.stack(draws[:2])) / factor
    lengths = tf.clip_by_value(tf.round(lengths), 1.0, size)
    corner = tf.round(tf.stack(draws[2:]) * (size - lengths))
    return tf.cast(corner, "int32"), tf.cast(lengths, "int32")


def _vary_colors(image, augmentation, seed):
    """Changes brightness, contrast, saturation and hue, in this order, within 0..255."""
    contrast, saturation = augmentation.contrast, augmentation.saturation
    changes = (
        (tf.image.stateless_random_brightness, (255 * augmentation.brightness,)),
        (tf.image.stateless_random_contrast, (1 - contrast, 1 + contrast)),
        (tf.image.stateless_random_saturation, (1 - saturation, 1 + saturation)),
        (tf.image.stateless_random_hue, (augmentation.hue,)),
    )
    for number, (change, bounds) in enumerate(changes, start=1):
        if bounds not in ((0,), (1, 1)):
            image = change(image, *bounds, seed=tf.random.fold_in(seed, number))
            image = tf.clip_by_value(image, 0.0, 255.0)
    return image
