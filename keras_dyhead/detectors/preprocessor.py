"""From raw images to batches for a detector."""

import functools
import math
import sys
from collections.abc import Sequence
from types import SimpleNamespace

import keras
import numpy as np
from keras import ops
from PIL import Image

from keras_dyhead.ops.arguments import are_numbers, check, check_choice, whole_number
from keras_dyhead.ops.published_resize import ARRAYS, larger, resize_like_opencv, resize_like_pillow

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@keras.saving.register_keras_serializable(package="keras_dyhead")
class DetectionPreprocessor(keras.layers.Layer):
    """Resizes, normalizes and pads images. Every detector has a preprocessor and saves it.

    Resizing keeps the aspect ratio: both sides are multiplied by the same factor and rounded by
    `int(side * factor + 0.5)`. Zeros are padded at the bottom and right after normalization.

    Args:
        image_size: `(height, width)` of the batch that images are resized to fit, or `None` to use
            the next three arguments. Defaults to `None`.
        min_side: int. Length of the shorter side, unless `max_side` limits it. Defaults to 800.
        max_side: int. Maximum length of the longer side. Defaults to 1333.
        pad_multiple: int. The batch is padded to a multiple of this. Defaults to 128, the
            coarsest stride of a P3..P7 pyramid.
        mean: Three floats to subtract from the channels, in `channel_order`. Defaults to
            ImageNet's RGB means.
        std: Three floats to divide the channels by. Defaults to ImageNet's.
        channel_order: `"RGB"` or `"BGR"`, as the backbone expects. Inputs are always RGB. Defaults
            to `"RGB"`.
        resizing: Bilinear method. `"pillow"` and `"opencv"` match these libraries bit for bit, as
            published detectors were trained. `"fast"` takes a quarter of the time. Like Pillow, it
            antialiases when shrinking, but a sixth of its values differ by 1. Defaults to `"fast"`.
        **kwargs: `name` and other arguments of `keras.layers.Layer`. The layer computes in
            float32 under every policy.

    Call arguments:
        images: RGB values 0..255 of any dtype: a batch `(B, H, W, 3)`, or a list of images
            `(H, W, 3)` of different sizes.

    Returns:
        Dict `{"images": (B, H', W', 3) float32, "image_sizes": (B, 2) int32 height and width
        without padding, "scales": (B, 2) float32 factors of height and width}`. To get a box in
        the original image, divide the detected box by (scale_x, scale_y, scale_x, scale_y).

    Example:
    ```python
    preprocessor = DetectionPreprocessor(image_size=(64, 64))
    batch = preprocessor(np.zeros((1, 100, 200, 3), "uint8"))
    batch["images"].shape, batch["image_sizes"]  # (1, 64, 64, 3), [[32, 64]]
    ```
    """

    def __init__(
        self,
        image_size: tuple[int, int] | None = None,
        min_side: int = 800,
        max_side: int = 1333,
        pad_multiple: int = 128,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        channel_order: str = "RGB",
        resizing: str = "fast",
        **kwargs,
    ):
        super().__init__(**kwargs | {"dtype": "float32"})
        check_choice("channel_order", channel_order, ("RGB", "BGR"))
        check_choice("resizing", resizing, ("fast", "pillow", "opencv"))
        if image_size is not None:
            whole = are_numbers(image_size, (2,), int) and min(image_size) > 0
            check("image_size", image_size, whole, "two positive integers")
            image_size = tuple(image_size)
        whole_number(pad_multiple, "pad_multiple")
        sides = are_numbers((min_side, max_side), (2,))
        if not sides or not 0 < min_side <= max_side < math.inf:
            raise ValueError(
                "`min_side` must be positive and not exceed `max_side`, a finite number. "
                f"Received: min_side={min_side!r}, max_side={max_side!r}"
            )
        finite = are_numbers(mean, (3,)) and np.isfinite(mean).all()
        check("mean", mean, finite, "three numbers")
        positive = are_numbers(std, (3,)) and np.isfinite(std).all() and min(std) > 0
        check("std", std, positive, "three positive numbers")
        self.image_size = image_size
        self.min_side = min_side
        self.max_side = max_side
        self.pad_multiple = pad_multiple
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.channel_order = channel_order
        self.resizing = resizing
        self.built = True

    def __call__(self, images, **kwargs):
        """Calls the layer. On JAX, arrays skip Keras' conversion, which compiles for each size."""
        parts = images if isinstance(images, (list, tuple)) else [images]
        if keras.backend.backend() == "jax" and all(isinstance(x, np.ndarray) for x in parts):
            return self.call(images)
        return super().__call__(images, **kwargs)

    def call(self, images):
        """Preprocesses a batch, or images of different sizes, into one batch."""
        is_list = isinstance(images, (list, tuple))
        groups = [image[None] for image in images] if is_list else [images]
        shapes = [tuple(group.shape) for group in groups]
        if not groups or any(len(s) != 4 or s[-1] != 3 or 0 in s[1:] for s in shapes):
            shapes = [shape[1:] for shape in shapes] if is_list else shapes[0]
            raise ValueError(
                "Expected RGB images (B, H, W, 3), or a list of (H, W, 3), with at least one "
                f"pixel. Received shapes: {shapes}"
            )
        originals = [ops.shape(group)[1:3] for group in groups]
        sizes = [self.resized_size(*original) for original in originals]
        canvas = self.canvas_size(sizes)
        pixels = [
            pad_images(self.normalize(self.resize(group, size)), canvas)
            for group, size in zip(groups, sizes, strict=True)
        ]
        batches = [ops.shape(group)[0] for group in groups]
        sizes, originals = _repeat(sizes, batches), _repeat(originals, batches)
        return {
            "images": ops.concatenate(pixels),
            "image_sizes": sizes,
            "scales": ops.cast(sizes, "float32") / ops.cast(originals, "float32"),
        }

    def resized_size(self, height, width):
        """Returns the (height, width) of a resized image, for ints or scalar int tensors."""
        if isinstance(height, int) and isinstance(width, int):
            factor = self._factor(height, width, min, max)
            return tuple(max(1, int(side * factor + 0.5)) for side in (height, width))
        # float64 to round .5 like the published code.
        height, width = ops.cast(height, "float64"), ops.cast(width, "float64")
        factor = self._factor(height, width, ops.minimum, ops.maximum)
        return tuple(
            ops.maximum(1, ops.cast(side * factor + 0.5, "int32")) for side in (height, width)
        )

    def _factor(self, height, width, smaller, larger):
        if self.image_size:
            return smaller(self.image_size[0] / height, self.image_size[1] / width)
        return smaller(
            self.max_side / larger(height, width), self.min_side / smaller(height, width)
        )

    def canvas_size(self, sizes):
        """Returns the (height, width) of a batch of resized images of these sizes."""
        if self.image_size:
            return self.image_size
        canvas = []
        for sides in zip(*sizes, strict=True):
            largest = functools.reduce(larger, sides)
            # Not `-(-a // b)`: ONNX does not round negative quotients down.
            multiples = (largest + self.pad_multiple - 1) // self.pad_multiple
            canvas.append(multiples * self.pad_multiple)
        return tuple(canvas)

    def resize(self, images, size):
        """Resizes `(B, H, W, 3)` images bilinearly to whole values 0..255 in float32.

        This and the next two methods take tensors of Keras' backend, NumPy arrays (and return
        arrays), or TensorFlow tensors in a dataset, on any backend.
        """
        if self.resizing != "fast":
            return _resize_as_published(self.resizing, images, size)
        functions = _functions_for(images)
        images = self.interpolate(functions.cast(images, "float32"), size)
        # Simple ratios give many ties. The offset makes every runtime round them up, whatever its
        # last bits are; the nearest other values are multiples of 1/1024 or 1/4096.
        return functions.floor(images + 0.5006)

    def interpolate(self, images, size):
        """Resizes `(B, H, W, 3)` float32 images bilinearly, without rounding."""
        if isinstance(images, np.ndarray):
            return np.stack([_resize_array(image, size) for image in images])
        # Keras' own resize does not take dynamic sizes on TensorFlow.
        if keras.backend.backend() == "tensorflow" or _is_tensorflow(images):
            return resize_bilinear(images, size)
        return ops.image.resize(images, size, antialias=True, data_format="channels_last")

    def normalize(self, images):
        """Reorders the channels of RGB images `(..., 3)` and normalizes them in float32."""
        functions = _functions_for(images)
        images = functions.cast(images, "float32")
        if self.channel_order == "BGR":
            images = functions.flip(images, axis=-1)
        shape = functions.shape(images)
        # By whole rows: CPUs do not vectorize over an innermost dimension of 3.
        rows = functions.reshape(images, (*shape[:-2], shape[-2] * 3))
        mean, std = (
            functions.tile(functions.cast(x, "float32"), (shape[-2],))
            for x in (self.mean, self.std)
        )
        return functions.reshape((rows - mean) / std, shape)

    def get_config(self):
        config = super().get_config()
        del config["dtype"]
        return config | {
            "image_size": self.image_size,
            "min_side": self.min_side,
            "max_side": self.max_side,
            "pad_multiple": self.pad_multiple,
            "mean": self.mean,
            "std": self.std,
            "channel_order": self.channel_order,
            "resizing": self.resizing,
        }


def resize_bilinear(images, size):
    """Resizes `(B, H, W, 3)` images to float32 in TensorFlow, antialiased only when shrinking.

    Antialiasing takes TensorFlow five times as long, and changes nothing unless images shrink.
    """
    import tensorflow as tf

    def resized(filtered):
        return tf.image.resize(images, size, antialias=filtered)

    known, found = images.shape[1:3], tf.shape(images)[1:3]
    sides = [found[axis] if known[axis] is None else known[axis] for axis in (0, 1)]
    filtered = shrinks(sides, size)
    if isinstance(filtered, bool):
        return resized(filtered)
    return tf.cond(filtered, lambda: resized(True), lambda: resized(False))


def _resize_as_published(resizing, images, size):
    """Resizes any images of `DetectionPreprocessor.resize` to match a library bit for bit."""
    function = resize_like_pillow if resizing == "pillow" else resize_like_opencv
    if keras.backend.backend() != "tensorflow" and _is_tensorflow(images):
        import tensorflow as tf

        resized = tf.numpy_function(
            lambda images, *size: function(images, tuple(map(int, size))),
            [images, size[0], size[1]],
            tf.float32,
        )
        return tf.ensure_shape(resized, (images.shape[0], None, None, images.shape[3]))
    return function(images, size)


def _resize_array(image, size):
    """Resizes an `(H, W, 3)` float32 array bilinearly with Pillow."""
    height, width = size
    resized = []
    for channel in np.moveaxis(image, -1, 0):  # Pillow has no RGB mode for float32
        channel = Image.fromarray(np.ascontiguousarray(channel))
        resized.append(np.asarray(channel.resize((width, height), Image.Resampling.BILINEAR)))
    return np.stack(resized, axis=-1)


def _is_tensorflow(images) -> bool:
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and tensorflow.is_tensor(images)


def _functions_for(images):
    """Returns NumPy's functions for arrays, TensorFlow's for its tensors, otherwise Keras'."""
    if isinstance(images, np.ndarray):
        return ARRAYS
    if keras.backend.backend() != "tensorflow" and _is_tensorflow(images):
        import tensorflow as tf

        return SimpleNamespace(
            cast=tf.cast,
            flip=lambda x, axis: tf.reverse(x, [axis]),
            floor=tf.floor,
            reshape=tf.reshape,
            shape=lambda x: tf.unstack(tf.shape(x)),
            tile=tf.tile,
        )
    return ops


def shrinks(size, new_size):
    """Returns whether height or width becomes smaller: a bool, or a tensor if given tensors."""
    return (new_size[0] < size[0]) | (new_size[1] < size[1])


def pad_images(images, canvas):
    """Pads `(B, H, W, 3)` images with zeros at the bottom and right to (height, width)."""
    missing = [side - actual for side, actual in zip(canvas, ops.shape(images)[1:3], strict=True)]
    pad = np.pad if isinstance(images, np.ndarray) else ops.pad
    padded = pad(images, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
    if all(isinstance(side, int) for side in canvas):  # the graph cannot infer the size
        padded = ops.reshape(padded, (-1, *canvas, 3))
    return padded


def _repeat(sizes, batches):
    """Stacks the (height, width) of groups of images into one row per image."""
    rows = [
        ops.tile(ops.cast(ops.stack(size), "int32")[None], (batch, 1))
        for size, batch in zip(sizes, batches, strict=True)
    ]
    return ops.concatenate(rows)
