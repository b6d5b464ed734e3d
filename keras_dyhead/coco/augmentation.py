"""Random variations of training images and their boxes."""

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_dyhead.coco.geometry import (
    clip_to_visible,
    crop,
    fitting_factor,
    flip_left_right,
    resize_bilinear,
    resize_into,
)
from keras_dyhead.ops.arguments import check, check_types


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How `load_coco` varies training images: size, crop, flip and colors.

    An image is cropped, resized, cut to its canvas, flipped and recolored, in this order, each
    with its own probability or range. Boxes follow the pixels exactly. Each image is resized once.
    In a mosaic, each of the four images is varied and cut to its part of the canvas.

    Args:
        horizontal_flip: Probability of a horizontal flip. Defaults to `0.5`.
        scale: Smallest and largest zoom, drawn uniformly. Zoom 1 fits the image to its canvas, or
            to the size that the preprocessor sets. An enlarged image is cropped to the canvas at a
            random place, a reduced one is padded. `(0.1, 2.0)` is large-scale jitter. `None`
            disables zoom. Defaults to `(0.8, 1.25)`.
        sizes: Lengths of the shorter side in pixels, one of which is drawn for each image
            (multi-scale training). The image is made smaller if `max_side` or its canvas requires
            it. Replaces `scale`. Defaults to `None`.
        max_side: Maximum length of the longer side in pixels with `sizes`. Defaults to `1333`.
        crop: Probability of cropping the image before it is resized. Defaults to `0.0`.
        crop_size: Smallest and largest height and width of the crop in pixels, each drawn
            independently and limited to the image. Defaults to `(384, 600)`.
        crop_sides: Lengths of the shorter side of the image in pixels, one of which is drawn for
            each crop. `crop_size` refers to the image at that size, or with `None` to the pixels
            of the file. Defaults to `(400, 500, 600)`. With `crop=0.5` and `sizes=range(480, 801,
            32)`, this is the published "resize, or resize-crop-resize" of Swin and DETR.
        brightness: Maximum change of pixel values, as a fraction of 255. Defaults to `0.0`.
        contrast: Maximum relative change of the contrast, less than 1. Defaults to `0.0`.
        saturation: Maximum relative change of the saturation, less than 1. Defaults to `0.0`.
        hue: Maximum rotation of the hue, as a fraction of the circle up to 0.5. Defaults to `0.0`.
        mosaic: Probability of combining four images around a random point of the canvas: the image
            and three drawn from the whole dataset. Each is resized as if it had the canvas to
            itself, then cut to its part. Defaults to `0.0`.
        min_visible: Minimum fraction of its area that a box must keep after cropping to remain a
            target. Defaults to `0.25`.

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

    Colors are changed with `tf.image`. Keras' random color layers keep their own random state, so
    an image's colors would depend on the images before it.
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
        check_types(self)
        for name in ("scale", "sizes", "crop_size", "crop_sides"):  # JSON lists and ranges
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if self.sizes is not None:
            self._check("sizes", len(self.sizes) > 0 and min(self.sizes) > 0, "positive lengths")
            if self.scale not in (None, type(self).scale):
                raise ValueError(
                    "`sizes` replaces `scale`: pass only one of them. "
                    f"Received: sizes={self.sizes}, scale={self.scale}"
                )
            object.__setattr__(self, "scale", None)
        largest = max(self.sizes or (1,))
        self._check("max_side", self.max_side >= largest, f"at least {largest}")
        for name in ("horizontal_flip", "crop", "mosaic", "brightness", "min_visible"):
            self._check(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        for name in ("scale", "crop_size"):
            low, high = getattr(self, name) or (1, 1)
            self._check(name, 0 < low <= high, "(smallest, largest), both positive")
        sides = self.crop_sides or (1,)
        self._check("crop_sides", min(sides) > 0, "positive lengths")
        for name in ("contrast", "saturation"):
            self._check(name, 0 <= getattr(self, name) < 1, "at least 0 and less than 1")
        self._check("hue", 0 <= self.hue <= 0.5, "between 0 and 0.5")

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
    """Varies one RGB image `(height, width, 3)`. The same seed gives the same result.

    Before the zoom, the image is fitted to `canvas`, `(height, width)`, within `limits` (see
    `fitting_factor`). `window` is the maximum size of the result, by default the canvas. `resize`
    is as in `resize_into`.

    Returns the float32 image, the boxes, clipped to it, and the remaining labels.
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
    """The top left corner and the (height, width) of a crop, in whole pixels of the image."""
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
