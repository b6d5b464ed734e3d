"""Examples of a dataset: an image, resized or varied and padded, with its boxes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_dyhead.coco.annotations import CocoImage
from keras_dyhead.coco.augmentation import Augmentation, augment
from keras_dyhead.coco.decode_image import read_or_empty
from keras_dyhead.coco.geometry import fitting_factor, resize_bilinear, resize_into
from keras_dyhead.ops.boxes import box_area

MOSAIC_PARTS = 4
_MOSAIC, _FIRST_PART = 5, 6
"""Values folded into the seed of an example. `augment` uses 1 to 4."""


@dataclasses.dataclass(eq=False)
class Examples:
    """Makes the examples of `load_coco`, which documents their content and most arguments.

    Each image is a row. `with_origin` adds `image_id`, `original_size` and `scale`, for images that
    are not varied. `limits` are as in `fitting_factor`.
    """

    images: Sequence[CocoImage]
    canvases: Sequence[tuple[int, int]]
    canvas_of_row: Sequence[int]
    max_boxes: int
    seed: int
    augmentation: Augmentation | None
    with_origin: bool
    preprocessor: Any
    limits: tuple[int, int] | None
    on_error: str

    def __post_init__(self):
        self._resize = getattr(self.preprocessor, "resize", resize_bilinear)
        same = [len(set(sides)) == 1 for sides in zip(*self.canvases, strict=True)]
        self._static_size = [self.canvases[0][axis] if same[axis] else None for axis in (0, 1)]
        canvases = np.array(self.canvases)[self.canvas_of_row]
        with tf.device("CPU:0"):
            self._table = _tabulate(self.images)
            self._table["canvases"] = tf.constant(canvases, "int32")

    def __call__(self, epoch: tf.Tensor, row: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Returns the padded image of a row in an epoch and its targets."""
        canvas = self._table["canvases"][row]
        origin = {}
        if self.augmentation is None:
            image, boxes, labels, origin = self._load_as_it_is(row, canvas)
        elif not self.augmentation.mosaic:
            image, boxes, labels = self._load_varied(row, canvas, self._key(epoch, row), canvas)
        else:
            key = self._key(epoch, row)
            is_mosaic, rows, meeting_point = self._draw_mosaic(epoch, row)

            def load_part(number, size):
                return self._load_varied(
                    rows[number], canvas, tf.random.fold_in(key, _FIRST_PART + number), size
                )

            image, boxes, labels = tf.cond(
                is_mosaic,
                lambda: _assemble_mosaic(canvas, meeting_point, load_part),
                lambda: self._load_varied(row, canvas, key, canvas),
            )
        image = tf.image.pad_to_bounding_box(image, 0, 0, canvas[0], canvas[1])
        targets = self._make_dense(boxes, labels)
        if self.with_origin:
            targets["image_id"] = self._table["ids"][row]
            targets |= origin
        return tf.ensure_shape(image, (*self._static_size, 3)), targets

    def rows_of(self, epoch: int, row: int) -> list[int]:
        """The rows of the images in an example: one, or four for a mosaic."""
        if self.augmentation is None or not self.augmentation.mosaic:
            return [row]
        with tf.device("CPU:0"):
            epoch, row = tf.constant(epoch, "int64"), tf.constant(row, "int64")
            is_mosaic, rows, _ = self._draw_mosaic(epoch, row)
        return rows.numpy().tolist() if is_mosaic else [int(row)]

    def _key(self, epoch, row):
        key = tf.stack([tf.constant(self.seed, "int64"), epoch])
        return tf.random.fold_in(key, self._table["ids"][row])

    def _draw_mosaic(self, epoch, row):
        """Draws whether an example is a mosaic, the rows of its parts, and where they meet.

        The example is the first part. The point, `(y, x)`, is in `[0.25, 0.75)` of the canvas.
        """
        key = tf.random.fold_in(self._key(epoch, row), _MOSAIC)
        chance, *place = tf.unstack(tf.random.stateless_uniform([3], key))
        shape, count = [MOSAIC_PARTS - 1], len(self._table["paths"])
        others = tf.random.stateless_uniform(shape, tf.random.fold_in(key, 1), 0, count, "int64")
        rows = tf.concat([row[None], others], axis=0)
        return chance < self.augmentation.mosaic, rows, 0.25 + tf.stack(place) / 2

    def _load_as_it_is(self, row, canvas):
        image, boxes, labels = self._read(row)
        original_size = tf.shape(image)[:2]
        factor = fitting_factor(original_size, canvas, self.limits)
        image, boxes, scale = resize_into(image, boxes, canvas, factor, resize=self._resize)
        origin = {"original_size": original_size, "scale": scale}
        return self._normalize(image), boxes, labels, origin

    def _load_varied(self, row, canvas, key, window):
        image, boxes, labels = self._read(row)
        settings = self.augmentation, key, self.limits, self._resize, window
        image, boxes, labels = augment(image, boxes, labels, canvas, *settings)
        return self._normalize(image), boxes, labels

    def _normalize(self, image):
        if self.preprocessor is None:
            return image
        return tf.cast(self.preprocessor.normalize(image[None])[0], "float32")

    def _make_dense(self, boxes, labels):
        """Pads boxes and labels with -1. If there are too many, keeps the largest boxes."""
        count = tf.minimum(tf.shape(boxes)[0], self.max_boxes)
        largest = tf.sort(tf.math.top_k(box_area(boxes), count).indices)
        dense = tf.gather(tf.concat([boxes, labels[:, None]], axis=1), largest)
        dense = tf.pad(dense, [[0, self.max_boxes - count], [0, 0]], constant_values=-1.0)
        dense = tf.ensure_shape(dense, (self.max_boxes, 5))
        return {"boxes": dense[:, :4], "labels": dense[:, 4]}

    def _read(self, row):
        """Image, boxes and labels. A skipped file becomes a black image without boxes."""
        path, size = self._table["paths"][row], self._table["sizes"][row]
        image, boxes = read_or_empty(path), self._table["boxes"][row]
        usable = tf.reduce_all(tf.shape(image)[:2] == size)
        message = "The image file cannot be decoded or differs in size from its annotation: "
        if self.on_error == "raise":
            check = tf.debugging.Assert(usable, [message, path])
            with tf.control_dependencies([check]):
                return tf.identity(image), boxes[:, :4], boxes[:, 4]

        def skip():
            with tf.control_dependencies([tf.print(message, path, sep="")]):
                return tf.zeros([size[0], size[1], 3], "uint8"), boxes[:0]

        image, boxes = tf.cond(usable, lambda: (image, boxes), skip)
        return image, boxes[:, :4], boxes[:, 4]


def _assemble_mosaic(canvas, meeting_point, load_part):
    """Combines four images: upper left, upper right, lower left, lower right.

    They meet at a point, `(y, x)` as fractions of the canvas. `load_part` takes the number of a
    part and its maximum `(height, width)`, and returns its image, boxes and labels. A smaller image
    is padded with zeros at the bottom and right.
    """
    point = tf.cast(tf.round(meeting_point * tf.cast(canvas, "float32")), "int32")
    sizes = tf.unstack(tf.stack([point, canvas - point]))
    strips, all_boxes, all_labels = [], [], []
    for lower in range(2):
        strip = []
        for right in range(2):
            size = tf.stack([sizes[lower][0], sizes[right][1]])
            image, boxes, labels = load_part(2 * lower + right, size)
            strip.append(tf.image.pad_to_bounding_box(image, 0, 0, size[0], size[1]))
            corner = tf.cast(tf.stack([right * point[1], lower * point[0]]), "float32")
            all_boxes.append(boxes + tf.tile(corner, [2]))
            all_labels.append(labels)
        strips.append(tf.concat(strip, axis=1))
    return tf.concat(strips, axis=0), tf.concat(all_boxes, axis=0), tf.concat(all_labels, axis=0)


def _tabulate(images: Sequence[CocoImage]) -> dict[str, tf.Tensor]:
    """Paths, ids, sizes, and ragged rows of left, top, right, bottom, label."""
    rows = [np.column_stack([image.boxes, image.labels]) for image in images]
    return {
        "paths": tf.constant([str(image.path) for image in images]),
        "ids": tf.constant([image.number for image in images], "int64"),
        "sizes": tf.constant([(image.height, image.width) for image in images], "int32"),
        "boxes": tf.RaggedTensor.from_row_lengths(
            tf.constant(np.concatenate(rows), "float32"), [len(row) for row in rows]
        ),
    }
