"""A detector saved on one backend detects the same on another, and back again."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from detectors.scenes import assert_same
from detectors.test_every_backend import IMAGES, build

from keras_dyhead.detectors import DETECTORS, DetectionDecoder

pytestmark = pytest.mark.tensorflow
TESTS = Path(__file__).parents[1]
OTHERS = [name for name in DETECTORS if name != "atss"]


def detect(model):
    """What `predict` returns, without compiling."""
    return model.decode(model(IMAGES), [IMAGES.shape[1:3]])


@pytest.fixture(scope="module", params=[("atss",), pytest.param(OTHERS, marks=pytest.mark.slow)])
def saved(request, tmp_path_factory):
    """A folder with detectors, and the detections of each on this backend."""
    folder, expected = tmp_path_factory.mktemp("saved"), {}
    for name in request.param:
        model = build(name, num_blocks=1)
        model.decoder = DetectionDecoder(score_threshold=0.0, max_detections=20)
        expected[name] = detect(model)
        model.save(folder / f"{name}.keras")
    return folder, expected


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_detections_are_the_same_there_and_back(saved, backend, tmp_path):
    folder, expected = saved
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = f"{TESTS}{os.pathsep}{TESTS.parent}"
    process = subprocess.run(
        [sys.executable, TESTS / "detectors" / "elsewhere.py", tmp_path],
        env=os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert process.returncode == 0, process.stderr
    for name, found in expected.items():
        assert_same(dict(np.load(tmp_path / f"found-{name}.npz")), found, atol=1e-3)
        again = keras.saving.load_model(tmp_path / f"again-{name}.keras")
        assert_same(detect(again), found, atol=1e-6)
