"""A detector saved on one backend detects the same on another, and comes back unchanged."""

import os
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


@pytest.mark.parametrize("backend", ["jax", "torch"])
@pytest.mark.parametrize("names", [("atss",), pytest.param(OTHERS, marks=pytest.mark.slow)])
def test_detections_are_the_same_there_and_back(names, backend, tmp_path):
    expected = {}
    for name in names:
        model = build(name, num_blocks=2)
        model.decoder = DetectionDecoder(score_threshold=0.0, max_detections=20)
        expected[name] = model.predict(IMAGES, verbose=0)
        model.save(tmp_path / f"{name}.keras")
    path = f"{TESTS}{os.pathsep}{TESTS.parent}"
    process = subprocess.run(
        [sys.executable, TESTS / "detectors" / "elsewhere.py", tmp_path],
        env=os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert process.returncode == 0, process.stderr
    for name in names:
        assert_same(dict(np.load(tmp_path / f"found-{name}.npz")), expected[name], atol=1e-3)
        again = keras.saving.load_model(tmp_path / f"again-{name}.keras")
        assert_same(again.predict(IMAGES, verbose=0), expected[name], atol=1e-6)
