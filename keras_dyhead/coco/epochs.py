"""The order of images in each epoch and their division into batches."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

_EPOCH = 0  # the only key of the table


class EpochCounter:
    """Keeps the epoch that the next iteration over a dataset delivers.

    `load_coco` stores it in `dataset.epochs`. Every iteration counts, even an interrupted one, and
    `fit` with several devices starts one more iteration than it has epochs. To keep in step with
    the epochs of `fit`, set them in a callback, as in the example.

    Args:
        initial_epoch: The epoch of the first iteration. Defaults to `0`.

    Example:
    ```python
    train = load_coco("train", "train.json", training=True, seed=0)
    in_step = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: train.epochs.set(epoch)
    )
    model.fit(train, epochs=12, callbacks=[in_step])
    ```
    """

    def __init__(self, initial_epoch: int = 0):
        # A table: a variable would be mirrored in a strategy's scope.
        self._table = tf.lookup.experimental.MutableHashTable("int64", "int64", default_value=-1)
        self.set(initial_epoch)

    def set(self, epoch: int | tf.Tensor) -> None:
        """Sets the epoch of the next iteration."""
        self._table.insert(tf.constant(_EPOCH, "int64"), tf.cast(epoch, "int64"))

    def get(self) -> tf.Tensor:
        """Returns the epoch of the next iteration, an int64 scalar."""
        return self._table.lookup(tf.constant(_EPOCH, "int64"))

    def advance(self) -> tf.Tensor:
        """Returns the epoch and moves on to the next one."""
        epoch = self.get()
        with tf.control_dependencies([epoch]):
            self.set(epoch + 1)
        return epoch


def batches_of_rows(
    canvas_of_row: Sequence[int],
    batch_size: int,
    epochs: EpochCounter,
    *,
    shuffle: bool = False,
    seed: int = 0,
    drop_remainder: bool = False,
    skipped_steps: int = 0,
) -> tf.data.Dataset:
    """The rows of each batch of an epoch, which depend only on the seed and the epoch.

    Rows are collected in order into one batch per canvas, which is delivered when it is full.
    Incomplete batches come last. With one canvas, these are plain batches.

    The elements are `(epochs, rows)`, the epoch of each row and the row, both int64 `(batch,)`. The
    first iteration skips `skipped_steps` batches.
    """
    count = len(canvas_of_row)
    several = len(set(canvas_of_row)) > 1
    canvas_of_row = tf.constant(canvas_of_row, "int64")
    first = epochs.get()

    def order(epoch):
        if not shuffle:
            return tf.data.Dataset.range(count)
        key = tf.random.fold_in(tf.stack([tf.constant(seed, "int64"), epoch]), -1)
        noise = tf.random.stateless_uniform([count], key, None, None, "int64")
        return tf.data.Dataset.from_tensor_slices(tf.cast(tf.argsort(noise), "int64"))

    def batches(epoch):
        rows = order(epoch)
        if several:
            rows = rows.group_by_window(
                key_func=lambda row: tf.gather(canvas_of_row, row),
                reduce_func=lambda _, group: group.batch(batch_size, drop_remainder),
                window_size=batch_size,
            )
        else:
            rows = rows.batch(batch_size, drop_remainder)
        if skipped_steps:
            rows = rows.skip(tf.where(epoch == first, tf.constant(skipped_steps, "int64"), 0))
        return rows.map(lambda rows: (tf.fill(tf.shape(rows), epoch), rows))

    return tf.data.Dataset.from_tensors(0).map(lambda _: epochs.advance()).flat_map(batches)


def count_batches(canvas_of_row: Sequence[int], batch_size: int, drop_remainder: bool) -> int:
    """The number of batches in an epoch."""
    counts = np.unique(canvas_of_row, return_counts=True)[1]
    return int(np.sum(counts // batch_size if drop_remainder else -(-counts // batch_size)))
