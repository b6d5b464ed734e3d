"""Training on several devices gives the same result as on one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from detectors.scenes import SMALL
from training import one_worker

from keras_dyhead.training.strategy import make_strategy


def cluster(count):
    """The value of TF_CONFIG in each of `count` processes on this machine."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    workers = [f"localhost:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    tasks = [{"type": "worker", "index": index} for index in range(count)]
    return [json.dumps({"cluster": {"worker": workers}, "task": task}) for task in tasks]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_blocks"), [("retinanet", 0), *((name, 2) for name in SMALL)])
def test_two_processes_train_and_predict_as_one_with_the_whole_batch(tmp_path, name, num_blocks):
    """Losses, weights, normalizations and clipped gradients; one shard has no object."""
    results = [tmp_path / f"{index}.npz" for index in range(2)]
    here = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "training.one_worker", result, name, str(num_blocks)],
            env=here | {"TF_CONFIG": config},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for config, result in zip(cluster(2), results, strict=True)
    ]
    expected = one_worker.train(tf.distribute.get_strategy(), name, num_blocks)
    for worker, result, role in zip(workers, results, ("chief", "helper"), strict=True):
        output, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors[-3000:]
        assert "refused: The processes of TF_CONFIG" in output and role in output
        with np.load(result) as arrays:
            assert set(arrays) == set(expected)
            for key in expected:
                tolerance = 1e-3 if key == "found boxes" else 1e-5
                np.testing.assert_allclose(
                    arrays[key], expected[key], rtol=1e-5, atol=tolerance, err_msg=key
                )
    assert expected["log loss"][-1] < expected["log loss"][0]


@pytest.mark.parametrize(
    "config", ["", "{}", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}']
)
def test_a_missing_or_wrong_cluster_is_explained(config, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match="TF_CONFIG.*Received"):
        make_strategy("multiworker")
