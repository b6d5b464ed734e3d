"""SGD as used to train published detectors."""

import numbers
import re
from collections.abc import Sequence

import keras

from keras_dyhead.ops.arguments import check, check_patterns


@keras.saving.register_keras_serializable(package="keras_dyhead")
class RegularizedSGD(keras.optimizers.SGD):
    """SGD with momentum where weight decay is part of the gradient, as in PyTorch.

    ```
    velocity = momentum * velocity + gradient + l2 * weight
    weight = weight - learning_rate * velocity
    ```

    Published detectors were trained like this. With the same settings, `keras.optimizers.SGD`
    behaves differently: its `weight_decay` bypasses the momentum, so that with momentum 0.9 the
    decay is only a tenth, and its velocity includes the learning rates of past steps.

    Args:
        learning_rate: As in `keras.optimizers.SGD`. Defaults to `0.01`.
        momentum: As in `keras.optimizers.SGD`. Defaults to `0.9`.
        l2: The weight decay. Defaults to `0.0`.
        no_l2: Regular expressions. Weights with matching paths do not decay. Defaults to `()`.
        **kwargs: Other arguments of `keras.optimizers.SGD` except `nesterov` and `weight_decay`.

    Raises:
        ValueError: If `l2` is negative, `no_l2` is no list of regular expressions, or an excluded
            argument is given.

    Example:

    >>> optimizer = RegularizedSGD(0.01, l2=1e-4, no_l2=["bias$"])
    >>> optimizer.momentum, optimizer.l2
    (0.9, 0.0001)

    Source: `torch.optim.SGD`.
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum: float = 0.9,
        l2: float = 0.0,
        no_l2: Sequence[str] = (),
        **kwargs,
    ):
        for name, instead in (("weight_decay", "None, with `l2` instead"), ("nesterov", "False")):
            check(name, kwargs.get(name), not kwargs.get(name), instead)
        check("l2", l2, isinstance(l2, numbers.Real) and l2 >= 0, "a number of at least 0")
        check_patterns("no_l2", no_l2)
        super().__init__(learning_rate, float(momentum), **kwargs)
        self.l2 = l2
        self.no_l2 = tuple(no_l2)

    def build(self, variables):
        if not self.built:
            super().build(variables)
            self.rates_of_decay = [0.0 if is_named(v, self.no_l2) else self.l2 for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        gradient = keras.ops.cast(gradient, variable.dtype)
        velocity = gradient + self.rates_of_decay[index] * variable
        if self.momentum:
            velocity += self.momentum * self.momentums[index]
            self.assign(self.momentums[index], velocity)
        rate = keras.ops.cast(learning_rate, variable.dtype)
        self.assign_sub(variable, rate * velocity)

    def get_config(self):
        config = super().get_config() | {"l2": self.l2, "no_l2": self.no_l2}
        return {k: v for k, v in config.items() if k not in ("nesterov", "weight_decay")}


def is_named(variable: keras.Variable, patterns: Sequence[str]) -> bool:
    """Returns whether any of the regular expressions matches part of a weight's path."""
    return any(re.search(pattern, variable.path) for pattern in patterns)
