"""The time that a training waits for images is measured correctly."""

import time

import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.training.waiting import measure_waiting


def test_waiting_is_the_time_between_a_loss_and_the_next_batch():
    """A batch takes 60 ms and a step 20 ms: the rest of the time is waiting."""
    times = {"batch": 0.06, "step": 0.02}

    class Model:
        def train_on_batch(self, images, targets):
            time.sleep(times["step"])

    def batches():
        while True:
            time.sleep(times["batch"])
            yield np.zeros((2, 4, 4, 3), "float32"), {"labels": np.zeros((2, 1), "float32")}

    signature = (tf.TensorSpec((2, 4, 4, 3)), {"labels": tf.TensorSpec((2, 1))})
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(1)
    passed = []
    starved = measure_waiting(Model(), dataset, 10, passed.append)
    assert starved["steps"] == 10 and passed[-1] == 1.0
    assert starved["step_seconds"] >= 0.02 and starved["waiting_seconds"] > 0.02
    assert 0.3 < starved["waiting_share"] < 0.8
    times.update(batch=0.001, step=0.1)
    assert measure_waiting(Model(), dataset, 10)["waiting_share"] < 0.1
    with pytest.raises(ValueError, match="positive. Received: steps=0"):
        measure_waiting(Model(), dataset, 0)
