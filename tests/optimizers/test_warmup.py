"""The warm-up is a line up to another schedule."""

import keras
import pytest

from keras_dyhead.optimizers import LinearWarmup


def test_the_warmup_is_a_line_that_ends_at_the_schedule():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([59], [0.5, 0.05])
    rate = LinearWarmup(schedule, 10)
    assert [float(rate(step)) for step in (0, 5, 10, 60)] == pytest.approx(
        [0.0005, 0.25025, 0.5, 0.05]
    )


def test_a_warmup_has_steps():
    with pytest.raises(ValueError, match="at least 1. Received: steps=0"):
        LinearWarmup(0.1, 0)
