"""SGD comes back from its configuration; its updates: `tests/training/test_optimizer.py`."""

import keras
import pytest

from keras_dyhead.optimizers import LinearWarmup, RegularizedSGD


def test_the_sgd_comes_back_with_its_schedule():
    steps = keras.optimizers.schedules.PiecewiseConstantDecay([59, 79], [0.01, 0.001, 0.0001])
    rate = LinearWarmup(steps, 10)
    optimizer = RegularizedSGD(rate, l2=1e-4, no_l2=["bias$"], use_ema=True, ema_momentum=0.9)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(copy, RegularizedSGD) and copy.get_config() == optimizer.get_config()
    assert (copy.l2, copy.no_l2, copy.momentum) == (1e-4, ("bias$",), 0.9)
    for step in (0, 5, 50, 99):
        optimizer.iterations.assign(step)
        copy.iterations.assign(step)
        assert float(copy.learning_rate) == float(optimizer.learning_rate)


@pytest.mark.parametrize(
    "wrong",
    [{"l2": -1.0}, {"no_l2": "bias$"}, {"no_l2": ["("]}, {"nesterov": True}, {"weight_decay": 0.1}],
)
def test_an_argument_that_would_do_nothing_or_harm_is_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: "):
        RegularizedSGD(**wrong)
