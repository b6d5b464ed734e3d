"""COCO annotations and an image folder as a `tf.data.Dataset`."""

import functools
import itertools
import os
import random
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_dyhead.coco.annotations import CocoAnnotations
from keras_dyhead.coco.augmentation import Augmentation
from keras_dyhead.coco.checks import check_count, warn_of_other_size
from keras_dyhead.coco.epochs import EpochCounter, batches_of_rows, count_batches
from keras_dyhead.coco.examples import MOSAIC_PARTS, Examples
from keras_dyhead.coco.geometry import assign_canvases, check_canvases
from keras_dyhead.ops.arguments import check
from keras_dyhead.printable import counted

_DEFAULT_AUGMENTATION = Augmentation()
_PREFETCHED_BATCHES = 2  # enough to bridge a slow image at little memory


def load_coco(
    images: str | os.PathLike,
    annotations: str | os.PathLike | CocoAnnotations,
    batch_size: int = 8,
    image_size: tuple[int, int] | Sequence[tuple[int, int]] = (512, 512),
    training: bool = False,
    *,
    preprocessor=None,
    augmentation: Augmentation | None = _DEFAULT_AUGMENTATION,
    class_names: Sequence[str] | None = None,
    on_error: str = "raise",
    verify: bool = True,
    shuffle: bool | None = None,
    seed: int | None = None,
    initial_epoch: int = 0,
    initial_step: int = 0,
    max_boxes: int | None = None,
    drop_remainder: bool = False,
) -> tf.data.Dataset:
    """Loads a COCO dataset as batches of padded images and dense boxes.

    Images are read, decoded and resized in parallel during iteration. They are never all in
    memory. Each is resized to fit its canvas, keeping its aspect ratio, and padded with zeros at
    the bottom and right. With `training=True`, the order changes every epoch and images are varied
    at random together with their boxes, see `Augmentation`. All images of a batch have the same
    canvas, so a compiled step is traced at most once per canvas.

    The elements are `(images, targets)`:

    - `images`: float32 `(batch, height, width, 3)`, RGB 0..255, or normalized by `preprocessor`;
    - `targets["boxes"]`: float32 `(batch, max_boxes, 4)`, xyxy pixels of the resized image, and
      `targets["labels"]`: float32 `(batch, max_boxes)`, both padded with -1;
    - with `training=False` also `targets["image_id"]`: int64 `(batch,)`,
      `targets["original_size"]`: int32 `(batch, 2)`, height and width of the file, and
      `targets["scale"]`: float32 `(batch, 2)`, resized over original size, `(y, x)`. `fit` and
      `evaluate` ignore them. `CocoEvaluation` uses them to map boxes back.

    Every image appears once per epoch, in mosaics more often. Order and augmentation depend only
    on the seed, the epoch and the image id. Reopened with `initial_epoch`, a dataset continues as
    if never closed. Crowd regions are not targets. Images without boxes are kept.

    The returned dataset has four more attributes, which its transformations do not inherit:
    `class_names`; `annotations`, the `CocoAnnotations` with all problems found; `epochs`, an
    `EpochCounter` to get or set the next epoch; and `image_ids(epoch, step)`, which lists the
    image ids of a batch, including mosaics, without reading images. A file that becomes unreadable
    after the check ends the iteration with an `InvalidArgumentError` that names it. With
    `on_error="skip"`, its name is printed and it becomes a black image without boxes.

    Args:
        images: Folder of JPEG or PNG files, which are converted to RGB. EXIF orientations are not
            applied: COCO boxes refer to the pixels as stored.
        annotations: Path of the COCO JSON file, or a `CocoAnnotations` opened with `images` and
            `class_names`, which is not checked again.
        batch_size: Images per batch. The last batch of a canvas may be smaller. Defaults to `8`.
        image_size: The canvas: `(height, width)` of the batches in pixels. With several, such as
            `((800, 1344), (1344, 800))`, each image goes to the canvas where it is largest. Ties
            go to the canvas it fills best. Defaults to `(512, 512)`.
        training: Whether to shuffle and augment. Defaults to `False`.
        preprocessor: Usually `model.preprocessor`: an object with a method `normalize(images)`,
            applied to RGB images `(1, height, width, 3)` in 0..255 before padding. A method
            `resize(images, size)` replaces bilinear resizing with antialiasing. If its
            `image_size` is `None`, its `min_side` and `max_side` limit the size of images; if they
            would be much larger without the canvas, training on them warns. Defaults to `None`:
            pixels are unchanged.
        augmentation: How images are varied in training. `None` leaves them unchanged. Defaults to
            `Augmentation()`, flips and zooms.
        class_names: Category names in label order. Defaults to `None`: all, by ascending id.
        on_error: `"raise"` or `"skip"`, for unusable files and annotations. Defaults to `"raise"`.
        verify: Whether to decode every file once first to find broken ones. Defaults to `True`.
        shuffle: Whether to shuffle in each epoch. Defaults to `None`: the value of `training`.
        seed: Seed of order and augmentation. `None` draws one from Python's `random`, which
            `keras.utils.set_random_seed` seeds. Defaults to `None`.
        initial_epoch: The epoch of the first iteration. The n-th iteration after it delivers epoch
            `initial_epoch + n`. Defaults to `0`.
        initial_step: Number of batches to skip, unread, at the start of epoch `initial_epoch`. The
            cardinality remains that of a whole epoch, so stop `fit` in its first epoch when the
            data end, as `keras-dyhead train` does. Otherwise Keras runs a step without data, which
            advances the learning rate schedule. Defaults to `0`.
        max_boxes: Maximum number of boxes per image; the largest are kept. Defaults to `None`:
            enough for every image, and four times as many with mosaics.
        drop_remainder: Whether to drop smaller last batches. Defaults to `False`.

    Returns:
        A `tf.data.Dataset` of known cardinality.

    Raises:
        ValueError: If an argument is out of range, no image is left, no batch is whole (with
            `drop_remainder`), or, with `on_error="raise"`, images or annotations cannot be used.
            The message lists them.

    Example:
    ```python
    train = load_coco("train", "train.json", image_size=(512, 512), training=True, seed=0)
    val = load_coco("val", "val.json", image_size=(512, 512), class_names=train.class_names)
    model.fit(train, validation_data=val, epochs=12, callbacks=[CocoEvaluation(val)])
    ```
    """
    canvases = check_canvases(image_size)
    check_count(1, batch_size=batch_size, max_boxes=max_boxes)
    check_count(0, initial_epoch=initial_epoch, initial_step=initial_step, seed=seed)
    opened = annotations
    if not isinstance(annotations, CocoAnnotations):
        opened = CocoAnnotations(
            annotations, images, class_names=class_names, on_error=on_error, verify=verify
        )
    fits = isinstance(augmentation, Augmentation | None)
    check("augmentation", augmentation, fits, "an Augmentation or None")
    fits = preprocessor is None or hasattr(preprocessor, "normalize")
    check("preprocessor", preprocessor, fits, "a preprocessor object or None")
    augmentation = augmentation if training else None
    sizes = np.array([(image.height, image.width) for image in opened.images])
    limits = largest = _size_limits(preprocessor)
    if augmentation is not None and augmentation.sizes is not None:
        largest = max(augmentation.sizes), augmentation.max_side
    elif training:
        warn_of_other_size(sizes, canvases, limits)
    canvas_of_row = assign_canvases(sizes, canvases, largest)
    number_of_batches = count_batches(canvas_of_row, batch_size, drop_remainder)
    if not number_of_batches:
        raise ValueError(
            f"The images do not fill a batch of {batch_size}. "
            f"Received: {counted(len(opened.images), 'image')} and drop_remainder=True"
        )
    fewer = f"less than the {number_of_batches} batches of an epoch"
    check("initial_step", initial_step, initial_step < number_of_batches, fewer)
    if max_boxes is None:
        max_boxes = max(1, max(len(image.boxes) for image in opened.images))
        if augmentation is not None and augmentation.mosaic:
            max_boxes *= MOSAIC_PARTS
    seed = random.randrange(2**31) if seed is None else seed
    examples = Examples(
        opened.images,
        canvases,
        canvas_of_row,
        max_boxes=max_boxes,
        seed=seed,
        augmentation=augmentation,
        with_origin=not training,
        preprocessor=preprocessor,
        limits=limits,
        on_error=on_error,
    )
    rows = functools.partial(
        batches_of_rows,
        canvas_of_row,
        batch_size,
        shuffle=training if shuffle is None else shuffle,
        seed=seed,
        drop_remainder=drop_remainder,
    )
    with tf.device("CPU:0"):
        epochs = EpochCounter(initial_epoch)
        batches = rows(epochs, skipped_steps=initial_step)
    dataset = _load_batches(batches, examples, batch_size, len(canvases) > 1, drop_remainder)
    if not initial_step:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(number_of_batches))
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    dataset = dataset.with_options(options).prefetch(_PREFETCHED_BATCHES)
    if initial_step:  # `fit` would cut all epochs to the length of the first one
        dataset.cardinality = lambda: tf.constant(number_of_batches, "int64")

    def image_ids(epoch: int, step: int) -> list[int]:
        """The ids of the images in a batch."""
        check("step", step, 0 <= step < number_of_batches, fewer)
        ((_, batch),) = rows(EpochCounter(epoch)).skip(step).take(1)
        parts = itertools.chain(*(examples.rows_of(epoch, row) for row in batch.numpy()))
        return [opened.images[row].id for row in parts]

    dataset.class_names = opened.class_names
    dataset.annotations = opened
    dataset.epochs = epochs
    dataset.image_ids = image_ids
    return dataset


def _size_limits(preprocessor) -> tuple[int, int] | None:
    """A preprocessor's `(min_side, max_side)`, or `None` if it has one size for all images."""
    if getattr(preprocessor, "image_size", None) is not None:
        return None
    limits = getattr(preprocessor, "min_side", None), getattr(preprocessor, "max_side", None)
    return None if None in limits else limits


def _load_batches(
    batches: tf.data.Dataset,
    examples: Examples,
    batch_size: int,
    several_canvases: bool,
    drop_remainder: bool,
) -> tf.data.Dataset:
    """Loads the images of batches of rows in parallel, across batch boundaries."""
    load = tf.autograph.experimental.do_not_convert(examples)
    if not several_canvases:
        rows = batches.unbatch()
        loaded = rows.map(load, num_parallel_calls=tf.data.AUTOTUNE)
        return loaded.batch(batch_size, drop_remainder)

    # Batches in the middle of an epoch may be smaller, so each image carries the number and size
    # of its batch as one key.
    def add_key(number, batch):
        epochs, rows = batch
        size = tf.size(rows, "int64")
        return tf.fill([size], number * (batch_size + 1) + size), epochs, rows

    rows = batches.enumerate().map(add_key).unbatch()
    loaded = rows.map(
        lambda key, epoch, row: (key, load(epoch, row)), num_parallel_calls=tf.data.AUTOTUNE
    )
    groups = loaded.group_by_window(
        key_func=lambda key, _: key,
        reduce_func=lambda _, group: group.batch(batch_size, drop_remainder),
        window_size_func=lambda key: key % (batch_size + 1),
    )
    return groups.map(lambda _, batch: batch)
