"""JAX as users run it: compiled once per size, on several devices, in half precision."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]  # runs in a separate process
TESTS = Path(__file__).parents[1]


def test_two_devices_step_as_one_and_each_size_is_compiled_once():
    process = subprocess.run(
        [sys.executable, TESTS / "detectors" / "jax_devices.py"],
        env=os.environ
        | {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
        | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout.splitlines()[-1])
    assert found["devices"] == 2
    assert found["two"][0] == pytest.approx(found["one"][0], rel=1e-5)
    assert found["weights"] < 1e-5 * max(1.0, found["moved"]) < found["moved"]
    assert [found[key][1] for key in ("one", "two", "half", "half, larger")] == [1, 1, 1, 1]
    losses = found["half"][0]
    assert losses[-1] < losses[0] < 1e3
    assert losses[0] == pytest.approx(found["one"][0][0], rel=0.05)
