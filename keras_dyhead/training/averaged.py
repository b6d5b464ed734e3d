"""Evaluation with the moving average of the weights, where the optimizer keeps one."""

import contextlib
from collections.abc import Iterator

import keras

from keras_dyhead.coco import CocoEvaluation


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Gives a model the weights that it will have at the end of `fit`, for as long as this lasts.

    An optimizer with `use_ema=True` keeps a moving average of the weights, which replaces them
    when `fit` ends. Afterwards every bit is as before. (Keras' `SwapEMAWeights` swaps by adding and
    subtracting, which rounds.)

    Args:
        model: A compiled model.
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
    """`CocoEvaluation` of the averaged weights, if there are any, see `averaged_weights`."""

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Evaluates, and writes the figures into `logs`."""
        with averaged_weights(self.model):
            super().on_epoch_end(epoch, logs)
