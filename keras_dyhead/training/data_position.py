"""`fit` from the middle of an epoch."""

import keras
import tensorflow as tf


class DataPosition(keras.callbacks.Callback):
    """Keeps a data set in step with the epochs of `fit`, of which the first may be shorter.

    `fit` learns that data ran out by a step without data, in which the optimizer counts and random
    layers draw all the same: it must not come to that. List it first: it tells `fit` to stop at
    the end of the short epoch, and then that it may go on.

    Args:
        data: The data set, from `load_coco`.
        first_step: Steps of the first epoch that the data set leaves out. Defaults to `0`.
    """

    def __init__(self, data: tf.data.Dataset, first_step: int = 0):
        super().__init__()
        self.data = data
        self.first_step = first_step

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Sets the epoch that the data set delivers next."""
        self.data.epochs.set(epoch)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Ends the epoch after its last step."""
        if self.first_step and self.first_step + batch + 1 == len(self.data):
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Has `fit` go on."""
        if self.first_step:
            self.first_step, self.model.stop_training = 0, False
