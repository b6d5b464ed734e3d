"""The moving average of the weights: evaluated and saved in place of them."""

import keras


class AveragedWeights(keras.callbacks.Callback):
    """Exchanges weights and their moving average at the end of every epoch.

    List it before and after the callbacks that are to see the average.
    """

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Exchanges them."""
        swap_average(self.model)


def swap_average(model: keras.Model) -> None:
    """Exchanges the weights of a model and their moving average, if its optimizer keeps one.

    Exactly, unlike `keras.callbacks.SwapEMAWeights`, which rounds.

    Args:
        model: A compiled model with a built optimizer.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if optimizer.use_ema:
        averages = optimizer._model_variables_moving_average
        for variable, average in zip(model.trainable_variables, averages, strict=True):
            value = keras.ops.convert_to_numpy(variable)
            variable.assign(average)
            average.assign(value)
