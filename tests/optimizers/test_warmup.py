"""The warm-up is a line up to another schedule."""

import math

import keras
import pytest

from keras_dyhead.optimizers import LinearWarmup


def test_the_warmup_is_a_line_that_ends_at_the_schedule():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([59], [0.5, 0.05])
    rate = LinearWarmup(schedule, 10)
    assert [float(rate(step)) for step in (0, 5, 10, 60)] == pytest.approx(
        [0.0005, 0.25025, 0.5, 0.05]
    )


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": math.nan}, {"schedule": 0.1}])
def test_a_warmup_has_steps_and_a_schedule(wrong):
    ((name, value),) = wrong.items()
    right = {"schedule": keras.optimizers.schedules.CosineDecay(0.1, 9), "steps": 1}
    with pytest.raises(ValueError, match=f"`{name}` must be .* Received: {name}={value}"):
        LinearWarmup(**right | wrong)
