"""COCO annotations and an image folder as a `tf.data.Dataset`."""

import os
import random
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_dyhead.coco.annotations import CocoAnnotations, CocoImage
from keras_dyhead.coco.geometry import clip_to_visible, resize_bilinear, resize_crop_flip
from keras_dyhead.coco.image_files import read_image


def load_coco(
    images: str | os.PathLike,
    annotations: str | os.PathLike,
    batch_size: int = 8,
    image_size: tuple[int, int] = (512, 512),
    training: bool = False,
    *,
    preprocessor=None,
    class_names: Sequence[str] | None = None,
    on_error: str = "raise",
    verify: bool = True,
    shuffle: bool | None = None,
    seed: int | None = None,
    horizontal_flip: float = 0.5,
    scale_jitter: tuple[float, float] | None = (0.8, 1.25),
    min_visible: float = 0.25,
    max_boxes: int | None = None,
    drop_remainder: bool = False,
) -> tf.data.Dataset:
    """Loads a COCO data set as batches of padded images and dense boxes.

    Images are read, decoded and resized while the data set is iterated, in parallel; they are
    never all in memory. Each is resized, its aspect ratio kept, to fit `image_size`, and padded at
    the bottom and the right with zeros. With `training=True` the order changes every epoch and
    images are flipped and zoomed at random, their boxes with them: a zoomed-in image is cropped to
    the canvas, a zoomed-out one padded. All shapes are fixed except that of a smaller last batch,
    so nothing retraces.

    The elements are `(images, targets)`:

    - `images`: float32 `(batch, height, width, 3)`, RGB in 0..255, or normalised by
      `preprocessor`;
    - `targets["boxes"]`: float32 `(batch, max_boxes, 4)`, xyxy pixels of the resized image, padded
      with -1;
    - `targets["labels"]`: float32 `(batch, max_boxes)`, 0 to `len(class_names) - 1` in the order
      of the category ids, padded with -1;
    - with `training=False` also `targets["image_id"]`: int64 `(batch,)`,
      `targets["original_size"]`: int32 `(batch, 2)`, height and width of the file, and
      `targets["scale"]`: float32 `(batch, 2)`, resized over original size, `(y, x)`. `fit` and
      `evaluate` ignore them; `CocoEvaluation` maps boxes back with them.

    Crowd regions are no targets, and images without boxes are kept. The returned data set has two
    more attributes (which its transformations do not inherit): `class_names`, and `annotations`,
    the `CocoAnnotations` with the report of what was found wrong, checked as described there. An
    image file that goes bad after that check ends the iteration with TensorFlow's own error.

    Args:
        images: Folder of JPEG or PNG files, which become RGB whatever they are. An EXIF
            orientation is not applied: COCO boxes count on the pixels as they are stored.
        annotations: Path of the COCO JSON file.
        batch_size: Images per batch. The last batch may be smaller. Defaults to `8`.
        image_size: `(height, width)` of the batches in pixels. Defaults to `(512, 512)`.
        training: Whether to shuffle and augment. Defaults to `False`.
        preprocessor: An object with a method `normalize(images)`, such as `model.preprocessor`,
            applied to RGB images `(1, height, width, 3)` in 0..255 before the padding. If it also
            has a method `resize(images, size)`, images are resized by it, else bilinearly with
            antialiasing. `None` leaves the pixels as they are. Defaults to `None`.
        class_names: Category names in the order of the labels, see `CocoAnnotations`. Defaults to
            `None`: all, by ascending category id.
        on_error: `"raise"` or `"skip"`, what to do about broken files and unusable annotations.
            Defaults to `"raise"`.
        verify: Whether to decode every file once beforehand, which is what finds broken ones, see
            `CocoAnnotations`. Defaults to `True`.
        shuffle: Whether to shuffle the images anew in each epoch. `None` means as `training` says.
            Defaults to `None`.
        seed: Seed of order and augmentation: the same seed gives the same epochs. `None` draws one
            from Python's `random`, which `keras.utils.set_random_seed` governs. Defaults to
            `None`.
        horizontal_flip: Probability of a left-right flip in training. Defaults to `0.5`.
        scale_jitter: Smallest and largest zoom in training, relative to the size at which the
            image just fits, or `None`. Defaults to `(0.8, 1.25)`.
        min_visible: Smallest share of its area that a box keeps its place with when the image is
            cropped. Defaults to `0.25`.
        max_boxes: Boxes per image to make room for; of an image with more, the largest are kept.
            `None` makes room for all. Defaults to `None`.
        drop_remainder: Whether to drop a smaller last batch. Defaults to `False`, as everywhere in
            Keras.

    Returns:
        A `tf.data.Dataset` of known cardinality.

    Raises:
        ValueError: If an argument is out of range, no image is left, or, with `on_error="raise"`,
            any image or annotation cannot be used; the message lists them.

    Example:
    ```python
    train = load_coco("train", "train.json", image_size=(512, 512), training=True, seed=0)
    val = load_coco("val", "val.json", image_size=(512, 512), class_names=train.class_names)
    model.fit(train, validation_data=val, epochs=12, callbacks=[CocoEvaluation(val)])
    ```
    """
    low, high = (1.0, 1.0) if scale_jitter is None else scale_jitter
    _check("batch_size", batch_size, batch_size >= 1, "at least 1")
    _check("image_size", image_size, len(image_size) == 2, "(height, width)")
    _check("image_size", image_size, min(image_size) >= 1, "positive")
    _check("horizontal_flip", horizontal_flip, 0 <= horizontal_flip <= 1, "a probability")
    _check("scale_jitter", scale_jitter, 0 < low <= high, "(smallest, largest), both positive")
    _check("min_visible", min_visible, 0 <= min_visible <= 1, "between 0 and 1")
    _check("max_boxes", max_boxes, max_boxes is None or max_boxes >= 1, "at least 1 or None")

    opened = CocoAnnotations(
        annotations, images, class_names=class_names, on_error=on_error, verify=verify
    )
    count = len(opened.images)
    height, width = image_size
    resize = getattr(preprocessor, "resize", resize_bilinear)
    if max_boxes is None:
        max_boxes = max(1, max(len(image.boxes) for image in opened.images))
    seed = random.randrange(2**31) if seed is None else seed
    with tf.device("CPU:0"):
        table = _tabulate(opened.images, max_boxes)

    @tf.autograph.experimental.do_not_convert
    def load(row, noise_seed):
        image, boxes = read_image(table["paths"][row]), table["boxes"][row]
        boxes, labels = boxes[:, :4], boxes[:, 4]
        original_size = tf.shape(image)[:2]
        if training:
            flip, zoom, *corner = tf.unstack(tf.random.stateless_uniform([4], noise_seed))
            image, boxes, scale = resize_crop_flip(
                image,
                boxes,
                image_size,
                zoom=low + (high - low) * zoom,
                corner=corner,
                flip=flip < horizontal_flip,
                resize=resize,
            )
            visible_size = tf.unstack(tf.shape(image)[:2])
            boxes, labels = clip_to_visible(boxes, labels, *visible_size, min_visible)
        else:
            image, boxes, scale = resize_crop_flip(image, boxes, image_size, resize=resize)
        if preprocessor is not None:
            image = tf.cast(preprocessor.normalize(image[None])[0], "float32")
        missing = max_boxes - tf.shape(boxes)[0]
        boxes = tf.pad(boxes, [[0, missing], [0, 0]], constant_values=-1.0)
        labels = tf.pad(labels, [[0, missing]], constant_values=-1.0)
        targets = {
            "boxes": tf.ensure_shape(boxes, (max_boxes, 4)),
            "labels": tf.ensure_shape(labels, (max_boxes,)),
        }
        if not training:
            targets["image_id"] = table["ids"][row]
            targets["original_size"] = original_size
            targets["scale"] = scale
        image = tf.image.pad_to_bounding_box(image, 0, 0, height, width)
        return tf.ensure_shape(image, (height, width, 3)), targets

    rows = tf.data.Dataset.range(count)
    if training if shuffle is None else shuffle:
        rows = rows.shuffle(count, seed=seed, reshuffle_each_iteration=True)
    noise = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)
    dataset = tf.data.Dataset.zip((rows, noise))
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(batch_size, drop_remainder).prefetch(tf.data.AUTOTUNE)
    dataset.class_names = opened.class_names
    dataset.annotations = opened
    return dataset


def _check(name: str, value, valid: bool, expected: str) -> None:
    if not valid:
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value}")


def _tabulate(images: list[CocoImage], max_boxes: int) -> dict[str, tf.Tensor]:
    """Everything but the pixels: paths, ids, ragged rows of left, top, right, bottom, label."""
    rows = []
    for image in images:
        areas = np.prod(image.boxes[:, 2:] - image.boxes[:, :2], axis=1)
        largest = np.sort(np.argsort(-areas, kind="stable")[:max_boxes])
        rows.append(np.column_stack([image.boxes, image.labels])[largest])
    return {
        "paths": tf.constant([str(image.path) for image in images]),
        "ids": tf.constant([image.id for image in images], "int64"),
        "boxes": tf.RaggedTensor.from_row_lengths(
            tf.constant(np.concatenate(rows), "float32"), [len(row) for row in rows]
        ),
    }
