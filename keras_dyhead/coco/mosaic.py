"""Mosaics: four images and their boxes combined into one."""

from collections.abc import Callable

import tensorflow as tf

PARTS = 4


def draw_mosaic(
    row: tf.Tensor, num_rows: int, probability: float, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Draws whether an example is a mosaic, and its parts. The same seed gives the same result.

    Returns whether it is one; the rows of its parts, int64 `(4,)`, the example first; and the
    point where they meet, `(y, x)` as fractions of the canvas, each in `[0.25, 0.75)`.
    """
    chance, *place = tf.unstack(tf.random.stateless_uniform([3], seed))
    others = tf.random.stateless_uniform(
        [PARTS - 1], tf.random.fold_in(seed, 1), 0, num_rows, "int64"
    )
    return chance < probability, tf.concat([row[None], others], axis=0), 0.25 + tf.stack(place) / 2


def assemble_mosaic(
    canvas: tf.Tensor,
    meeting_point: tf.Tensor,
    load: Callable[[int, tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Combines four images: upper left, upper right, lower left, lower right.

    They meet at a point, `(y, x)` as fractions of the canvas. `load` takes the number of a part and
    its maximum `(height, width)`, and returns its image, boxes and labels. A smaller image is
    padded with zeros at the bottom and right. Returns the image, boxes and labels of the mosaic.
    """
    point = tf.cast(tf.round(meeting_point * tf.cast(canvas, "float32")), "int32")
    sizes = tf.unstack(tf.stack([point, canvas - point]))
    strips, all_boxes, all_labels = [], [], []
    for lower in range(2):
        strip = []
        for right in range(2):
            size = tf.stack([sizes[lower][0], sizes[right][1]])
            image, boxes, labels = load(2 * lower + right, size)
            strip.append(tf.image.pad_to_bounding_box(image, 0, 0, size[0], size[1]))
            corner = tf.cast(tf.stack([right * point[1], lower * point[0]]), "float32")
            all_boxes.append(boxes + tf.tile(corner, [2]))
            all_labels.append(labels)
        strips.append(tf.concat(strip, axis=1))
    return tf.concat(strips, axis=0), tf.concat(all_boxes, axis=0), tf.concat(all_labels, axis=0)
