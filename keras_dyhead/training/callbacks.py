"""Training callbacks other than the checkpoint."""

import math
from collections.abc import Callable

import keras
import tensorflow as tf

from keras_dyhead.coco import CocoEvaluation
from keras_dyhead.training.checkpoint import EpochCheckpoint, averaged_weights


class AveragedEvaluation(CocoEvaluation):
    """`CocoEvaluation` of the averaged weights, if any, with a prefix of the metrics' names."""

    def __init__(self, prefix: str, **arguments):
        super().__init__(**arguments)
        self.prefix = prefix

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        figures = {}
        with averaged_weights(self.model):
            super().on_epoch_end(epoch, figures)
        if logs is not None:
            logs |= {name.replace("val_", self.prefix, 1): v for name, v in figures.items()}


class DataPosition(keras.callbacks.Callback):
    """Keeps a dataset in step with the epochs of `fit`, even if the first epoch is shorter.

    `fit` notices that data ran out only by taking a step without data, which advances the optimizer
    and the random layers. To avoid this, the callback stops `fit` at the end of the short epoch,
    then lets it continue. List it before `checkpoint`, which knows the steps that `data`, a dataset
    of `load_coco`, omits from the first epoch.
    """

    def __init__(self, data: tf.data.Dataset, checkpoint: EpochCheckpoint):
        super().__init__()
        self.data = data
        self.checkpoint = checkpoint

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.data.epochs.set(epoch)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Ends the epoch after its last step."""
        omitted = self.checkpoint.steps
        if omitted and omitted + batch + 1 == len(self.data):
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self.checkpoint.steps:
            self.model.stop_training = False


class FiniteLoss(keras.callbacks.Callback):
    """Raises an error that names the images of the step when the loss is NaN or infinite.

    It costs nothing, because Keras reads the loss anyway. Steps that a `LossScaleOptimizer` skips
    have a finite loss: only their gradient is infinite. `images_of` describes the images of an
    epoch and a step, both counted from 0.
    """

    async_safe = True  # Keras may read the losses asynchronously

    def __init__(self, images_of: Callable[[int, int], str], checkpoint: EpochCheckpoint):
        super().__init__()
        self.images_of = images_of
        self.checkpoint = checkpoint

    def on_train_batch_end(self, batch: int, logs: dict) -> None:
        """Raises an error if the mean loss of the epoch so far is not finite."""
        loss = float(logs["loss"])
        if not math.isfinite(loss):
            epoch, step = len(self.checkpoint.records), self.checkpoint.steps + batch
            raise FloatingPointError(
                f"the loss became {loss} in epoch {epoch + 1}, step {step + 1}, on "
                f"{self.images_of(epoch, step)}: look at these images and their boxes, or "
                f"lower the learning rate; {self.checkpoint.kept()} is kept"
            )
