"""Training callbacks other than the checkpoint."""

import contextlib
import math
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from keras_dyhead.coco import CocoEvaluation


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Temporarily gives a compiled model the weights that it will have at the end of `fit`.

    An optimizer with `use_ema=True` keeps a moving average of the weights, which replaces them
    when `fit` ends. On exit, the weights are restored exactly. (Keras' `SwapEMAWeights` swaps by
    adding and subtracting, which rounds.)
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
    then lets it continue. List it first. `data` comes from `load_coco`, and `first_step` is the
    number of steps that it omits from the first epoch.
    """

    def __init__(self, data: tf.data.Dataset, first_step: int = 0):
        super().__init__()
        self.data = data
        self.first_step = first_step

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.data.epochs.set(epoch)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Ends the epoch after its last step."""
        if self.first_step and self.first_step + batch + 1 == len(self.data):
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if self.first_step:
            self.first_step, self.model.stop_training = 0, False


class FiniteLoss(keras.callbacks.Callback):
    """Raises an error that names the images of the step when the loss is NaN or infinite.

    It costs nothing, because Keras reads the loss anyway. Steps that a `LossScaleOptimizer` skips
    have a finite loss: only their gradient is infinite. `images_of` describes the images of an
    epoch and a step, both counted from 0, and `kept` what was saved. `first_step` is the number of
    steps of the first epoch that were done before this `fit`.
    """

    async_safe = True  # Keras may read the losses asynchronously

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
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Raises an error if the mean loss of the epoch so far is not finite."""
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            step = self.first_step + batch
            raise FloatingPointError(
                f"the loss became {loss} in epoch {self._epoch + 1}, step {step + 1}, on "
                f"{self.images_of(self._epoch, step)}: look at these images and their boxes, or "
                f"lower the learning rate; {self.kept()} is kept"
            )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.first_step = 0
