"""What a training does at its epochs and steps, beside saving its state."""

import contextlib
import math
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from keras_dyhead.coco import CocoEvaluation


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Gives a compiled model, meanwhile, the weights that it will have at the end of `fit`.

    An optimizer with `use_ema=True` keeps a moving average of the weights, which replaces them
    when `fit` ends. Afterwards every bit is as before. (Keras' `SwapEMAWeights` swaps by adding and
    subtracting, which rounds.)
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if not optimizer.use_ema:
        yield
        return
    weights = model.trainable_variables
    own = [keras.ops.convert_to_numpy(weight) for weight in weights]
    optimizer.finalize_variable_values(weights)
    try:
        yield
    finally:
        for weight, value in zip(weights, own, strict=True):
            weight.assign(value)


class AveragedEvaluation(CocoEvaluation):
    """`CocoEvaluation` of the averaged weights, if there are any, see `averaged_weights`.

    Args:
        prefix: What the names of the figures begin with in the logs.
        **arguments: Of `CocoEvaluation`.
    """

    def __init__(self, prefix: str, **arguments):
        super().__init__(**arguments)
        self.prefix = prefix

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Evaluates, and writes the figures into `logs`."""
        figures = {}
        with averaged_weights(self.model):
            super().on_epoch_end(epoch, figures)
        if logs is not None:
            logs |= {name.replace("val_", self.prefix, 1): v for name, v in figures.items()}


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


class FiniteLoss(keras.callbacks.Callback):
    """Raises as soon as the loss is NaN or infinite, and names the images of that step.

    It reads what Keras has read anyway. Steps that a `LossScaleOptimizer` skips have a finite loss:
    only their gradient is infinite.

    Args:
        images_of: Function from epoch and step, both counted from 0, to what identifies the images
            of that step.
        kept: Function that says what is left of the training. Defaults to nothing.
        first_step: Steps of the first epoch that were done before this `fit`. Defaults to `0`.

    Raises:
        FloatingPointError: At the end of the step.
    """

    async_safe = True  # where Keras reads losses beside the training, it need not wait

    def __init__(
        self,
        images_of: Callable[[int, int], str],
        kept: Callable[[], str] = lambda: "nothing",
        first_step: int = 0,
    ):
        super().__init__()
        self.images_of = images_of
        self.kept = kept
        self.first_step = first_step
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Notes which epoch it is."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Raises if the mean loss of the epoch so far is no finite number."""
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            step = self.first_step + batch
            raise FloatingPointError(
                f"the loss became {loss} in epoch {self._epoch + 1}, step {step + 1}, on "
                f"{self.images_of(self._epoch, step)}: look at these images and their boxes, or "
                f"lower the learning rate; {self.kept()} is kept"
            )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Forgets that an epoch began late."""
        self.first_step = 0
