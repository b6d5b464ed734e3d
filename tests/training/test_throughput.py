"""Measured throughput, and the time that training waits for images, are correct."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.training import throughput


def test_throughput_matches_a_pipeline_of_known_speed():
    """Batches of two images are 20 ms apart: at most 100 images per second."""

    def batches():
        for number in range(10):
            time.sleep(0.02)
            images = np.zeros((2, 32, 64, 3) if number % 2 else (2, 64, 32, 3), "float32")
            images[:, :16, :32] = 1
            yield images, {"labels": np.array([[0, 1, -1], [3, -1, -1]], "float32")}

    signature = (
        tf.TensorSpec((2, None, None, 3)),
        {"labels": tf.TensorSpec((2, 3))},
    )
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    measured = throughput.measure_throughput(dataset, 0.5)
    assert measured["images_per_second"] < 105
    rate = measured["images"] / measured["seconds"]
    assert measured["images_per_second"] == pytest.approx(rate, rel=0.02)
    assert measured["seconds"] >= 0.5
    assert measured["cpu_seconds_per_image"] < 0.02
    assert measured["boxes_per_image"] == 1.5
    assert {tuple(canvas["size"]) for canvas in measured["canvases"]} == {(32, 64), (64, 32)}
    assert {canvas["filled"] for canvas in measured["canvases"]} == {0.25}


def test_progress_moves_with_every_batch(monkeypatch):
    now, passed = [0.0], []

    class Batches:
        def repeat(self):
            while True:
                now[0] += 0.02
                yield tf.ones((2, 32, 64, 3)), {"labels": tf.zeros((2, 1))}

    def progress(parts):
        for part in parts:
            yield part
            passed.append(now[0])

    clock = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0])
    monkeypatch.setattr(throughput, "time", clock)
    measured = throughput.measure_throughput(Batches(), 0.5, progress)
    assert len(passed) == 100 and np.diff(passed).max() == pytest.approx(0.02)
    assert measured["seconds"] == pytest.approx(0.5, abs=0.03)


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
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    assert throughput.measure_waiting(clock, clock, 4) == {
        "step_seconds": pytest.approx(0.07),
        "waiting_seconds": pytest.approx(0.03),
        "waiting_share": pytest.approx(0.3),
        "steps": 4,
    }
