"""One example of a data set: its image, resized or varied and padded, with its boxes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dyhead.coco.annotations import CocoImage
from keras_dyhead.coco.augmentation import Augmentation, augment
from keras_dyhead.coco.geometry import fitting_factor, resize_bilinear, resize_into
from keras_dyhead.coco.image_files import read_or_empty


class Examples:
    """Makes the examples of `load_coco`, which tells what they hold.

    Args:
        images: The images of the data set, a row each.
        canvases: `(height, width)` of the canvases.
        canvas_of_row: The index of the canvas that each row goes to.
        max_boxes: Boxes to make room for.
        seed: Seed of the augmentation.
        augmentation: How to vary images. Defaults to `None`: not at all.
        with_origin: Whether to add `image_id`, `original_size` and `scale`; only of images that
            are not varied. Defaults to `False`.
        preprocessor: Resizes and normalises, see `load_coco`. Defaults to `None`.
        limits: Lengths that the shorter and the longer side must not exceed. Defaults to `None`.
        on_error: `"raise"` or `"skip"`, what to do about a file that cannot be read. Defaults to
            `"raise"`.
    """

    def __init__(
        self,
        images: Sequence[CocoImage],
        canvases: Sequence[tuple[int, int]],
        canvas_of_row: Sequence[int],
        max_boxes: int,
        seed: int,
        augmentation: Augmentation | None = None,
        with_origin: bool = False,
        preprocessor: Any = None,
        limits: tuple[int, int] | None = None,
        on_error: str = "raise",
    ):
        self.max_boxes = max_boxes
        self.seed = seed
        self.augmentation = augmentation
        self.with_origin = with_origin
        self.preprocessor = preprocessor
        self.limits = limits
        self.on_error = on_error
        same = [len(set(sides)) == 1 for sides in zip(*canvases, strict=True)]
        self._static_size = [canvases[0][axis] if same[axis] else None for axis in (0, 1)]
        with tf.device("CPU:0"):
            self._table = _tabulate(images, max_boxes)
            self._table["canvases"] = tf.constant(np.array(canvases)[canvas_of_row], "int32")

    def __call__(self, epoch: tf.Tensor, row: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Returns the image of a row in an epoch, padded, and its targets."""
        image, boxes, labels = self._read(row)
        original_size = tf.shape(image)[:2]
        canvas = self._table["canvases"][row]
        resize = getattr(self.preprocessor, "resize", resize_bilinear)
        if self.augmentation is None:
            factor = fitting_factor(original_size, canvas, self.limits)
            image, boxes, scale = resize_into(image, boxes, canvas, factor, resize=resize)
        else:
            key = tf.stack([tf.constant(self.seed, "int64"), epoch])
            key = tf.random.fold_in(key, self._table["ids"][row])
            image, boxes, labels = augment(
                image, boxes, labels, canvas, self.augmentation, key, self.limits, resize
            )
        if self.preprocessor is not None:
            image = tf.cast(self.preprocessor.normalize(image[None])[0], "float32")
        image = tf.image.pad_to_bounding_box(image, 0, 0, canvas[0], canvas[1])
        missing = self.max_boxes - tf.shape(boxes)[0]
        boxes = tf.pad(boxes, [[0, missing], [0, 0]], constant_values=-1.0)
        labels = tf.pad(labels, [[0, missing]], constant_values=-1.0)
        targets = {
            "boxes": tf.ensure_shape(boxes, (self.max_boxes, 4)),
            "labels": tf.ensure_shape(labels, (self.max_boxes,)),
        }
        if self.with_origin:
            targets["image_id"] = self._table["ids"][row]
            targets["original_size"] = original_size
            targets["scale"] = scale
        return tf.ensure_shape(image, (*self._static_size, 3)), targets

    def _read(self, row):
        """Image, boxes and labels; a black image without boxes for a file to be skipped."""
        path, size = self._table["paths"][row], self._table["sizes"][row]
        image, boxes = read_or_empty(path), self._table["boxes"][row]
        usable = tf.reduce_all(tf.shape(image)[:2] == size)
        message = "The image file cannot be decoded or has another size than annotated: "
        if self.on_error == "raise":
            check = tf.debugging.Assert(usable, [message, path])
            with tf.control_dependencies([check]):
                return tf.identity(image), boxes[:, :4], boxes[:, 4]

        def skip():
            with tf.control_dependencies([tf.print(message, path, sep="")]):
                return tf.zeros([size[0], size[1], 3], "uint8"), boxes[:0]

        image, boxes = tf.cond(usable, lambda: (image, boxes), skip)
        return image, boxes[:, :4], boxes[:, 4]


def _tabulate(images: Sequence[CocoImage], max_boxes: int) -> dict[str, tf.Tensor]:
    """Everything but the pixels: paths, ids, ragged rows of left, top, right, bottom, label."""
    rows = []
    for image in images:
        areas = np.prod(image.boxes[:, 2:] - image.boxes[:, :2], axis=1)
        largest = np.sort(np.argsort(-areas, kind="stable")[:max_boxes])
        rows.append(np.column_stack([image.boxes, image.labels])[largest])
    return {
        "paths": tf.constant([str(image.path) for image in images]),
        "ids": tf.constant([image.id for image in images], "int64"),
        "sizes": tf.constant([(image.height, image.width) for image in images], "int32"),
        "boxes": tf.RaggedTensor.from_row_lengths(
            tf.constant(np.concatenate(rows), "float32"), [len(row) for row in rows]
        ),
    }
