"""A step on several replicas is the step on the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from detectors.scenes import SMALL

from keras_dyhead.detectors.replicas import sum_gradients_first, with_an_image

ALL_MODELS = [f"{name} {num_blocks} predicts" for name in SMALL for num_blocks in (0, 2)]


@pytest.fixture(
    scope="module", params=[["atss 2"], pytest.param(ALL_MODELS, marks=pytest.mark.slow)]
)
def compared(request):
    """The models, and what the comparison of two replicas with one device prints."""
    process = subprocess.run(
        [sys.executable, "-m", "detectors.two_replicas", *request.param],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return request.param, process.stdout


def test_a_step_on_two_replicas_equals_the_step_on_the_whole_batch(compared):
    models, output = compared
    assert output.count("equal on 2 replicas") == len(models)


def test_clipping_and_loss_scaling_on_two_replicas_equal_those_of_the_whole_batch(compared):
    _, output = compared
    assert output.count("optimizers equal") == 3
    assert output.count("skipped 0") == 2


def test_xla_is_refused_on_two_replicas(compared):
    assert "a strategy with 2 replicas. Received: jit_compile=True" in compared[1]


def test_a_replica_without_an_image_detects_nothing():
    seen = []

    def predict(data):
        seen.append(len(data[0]))
        return {"confidence": data[0][:, 0], "num_detections": data[0][:, 0, 0]}

    for count in (0, 2):
        found = with_an_image(predict)((keras.ops.ones((count, 3, 4)),))
        assert found["confidence"].shape == (count, 4) and found["num_detections"].shape == (count,)
    assert seen == [1, 2]


def test_an_optimizer_is_changed_once_and_does_the_same_on_one_device():
    weights = []
    for times in (0, 2):
        variable = keras.Variable(np.array([1.0, 2.0]))
        optimizer = keras.optimizers.SGD(0.1, global_clipnorm=1.0)
        for _ in range(times):
            sum_gradients_first(optimizer)
        optimizer.apply([np.array([3.0, 4.0], "float32")], [variable])
        weights.append(variable.numpy())
    np.testing.assert_array_equal(*weights)
    np.testing.assert_allclose(weights[0], [1 - 0.06, 2 - 0.08], rtol=1e-6)
