"""The time that a training waits for images is measured correctly."""

from types import SimpleNamespace

import pytest

from keras_dyhead.training import waiting


class Clock:
    """A clock, a dataset and a model: batches and steps take exactly as long as they say."""

    def __init__(self, batches, steps):
        self.now, self.batches, self.steps = 0.0, batches, iter(steps)

    def repeat(self):
        for seconds in self.batches:
            self.now += seconds
            yield None, None

    def train_on_batch(self, images, targets):
        self.now += next(self.steps)


def test_waiting_is_the_time_between_a_loss_and_the_next_batch(monkeypatch):
    """The first three steps do not count. Of the others, one waits three times as long."""
    clock = Clock(batches=[9, 9, 9, 0.02, 0.06, 0.02, 0.02], steps=[9, 9, 9, 0.07, 0.5, 0.07, 0.07])
    monkeypatch.setattr(waiting, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    passed = []
    found = waiting.measure_waiting(clock, clock, 4, passed.append)
    assert found == {
        "step_seconds": pytest.approx(0.07),
        "waiting_seconds": pytest.approx(0.03),
        "waiting_share": pytest.approx(0.3),
        "steps": 4,
    }
    assert len(passed) == 7 and passed[-1] == 1.0
    with pytest.raises(ValueError, match="positive. Received: steps=0"):
        waiting.measure_waiting(clock, clock, 0)
