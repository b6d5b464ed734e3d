"""AdamW that moves some weights more slowly than others."""

from collections.abc import Mapping

import keras

from keras_dyhead.optimizers.sgd import is_named


@keras.saving.register_keras_serializable(package="keras_dyhead")
class RatedAdamW(keras.optimizers.AdamW):
    """AdamW with learning rates by the names of weights.

    Adam's steps are as large for small gradients as for large ones. Where a small change of weights
    is a large one of what they do, as in the convolutions that say where to sample, steps have to
    be smaller.

    Args:
        learning_rate: As of `keras.optimizers.AdamW`, like all else. Defaults to `0.001`.
        rates: Parts of the learning rate by regular expression: a weight moves at that of the first
            one found in its path. Defaults to `None`: all move at the whole rate.
        **kwargs: Of `keras.optimizers.AdamW`.

    Example:

    >>> optimizer = RatedAdamW(1e-3, rates={"offset_conv": 0.1})
    >>> optimizer.rates
    {'offset_conv': 0.1}

    Source: Zhu et al., "Deformable DETR" (ICLR 2021), whose sampling offsets learn at a tenth.
    """

    def __init__(self, learning_rate=0.001, rates: Mapping[str, float] | None = None, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.rates = dict(rates or {})

    def build(self, variables):
        """Creates the moments."""
        if not self.built:
            super().build(variables)
            self.parts = [self._part(variable) for variable in variables]

    def update_step(self, gradient, variable, learning_rate):
        """Updates one weight, at its rate."""
        part = self.parts[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate * part)

    def _part(self, variable):
        found = (part for name, part in self.rates.items() if is_named(variable, (name,)))
        return next(found, 1.0)

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {"rates": self.rates}
