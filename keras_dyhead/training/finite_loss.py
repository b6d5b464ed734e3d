"""A training that stops at the step whose loss is no number."""

import math
from collections.abc import Callable

import keras


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
