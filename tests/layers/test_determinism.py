"""Results are bitwise identical from run to run."""

import functools
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from backend import FORMS, as_function, vjp

from keras_dyhead.layers import DyHeadNeck
from keras_dyhead.ops import deform_conv2d
from keras_dyhead.ops.sampling_form import sampling_form


@pytest.fixture(scope="module", autouse=True)
def all_cores():
    """Makes PyTorch use as many threads as it does for users, whatever the suite sets."""
    if keras.backend.backend() != "torch":
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count())
    yield
    torch.set_num_threads(before)


def operation():
    """Outputs and gradients of the operation, in two chunks of positions, on all cores."""
    rng = np.random.default_rng(0)
    shapes = [(1, 80, 80, 64), (1, 80, 80, 18), (1, 80, 80, 9), (3, 3, 64, 16), (1, 80, 80, 16)]
    *arrays, cotangent = (rng.normal(size=shape).astype("float32") for shape in shapes)
    output, gradients = vjp(deform_conv2d, arrays, cotangent)
    return [output, *gradients]


def neck():
    """Outputs and gradients of a block on three levels."""
    rng = np.random.default_rng(0)
    pyramid = [rng.normal(size=(2, n, n, 32)).astype("float32") for n in (40, 20, 10)]
    layer = DyHeadNeck(1, 32)
    layer.build([x.shape for x in pyramid])
    for weight in layer.weights:
        weight.assign(rng.normal(0, 0.2, weight.shape))
    cotangent = rng.normal(size=sum(x.size for x in pyramid)).astype("float32")
    output, gradients = vjp(*as_function(layer, pyramid), cotangent)
    return [output, *gradients]


def training():
    """Weights after two steps of `fit`."""
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((16, 16, 32))]  # one level: `neck` has several
    model = keras.Model(inputs, DyHeadNeck(1, 32)(inputs))
    model.compile(keras.optimizers.SGD(0.1), loss=["mse"])
    x = [np.random.default_rng(0).normal(size=(4, 16, 16, 32))]
    model.fit(x, [0 * a for a in x], batch_size=2, verbose=0)
    return model.get_weights()


@functools.cache
def first_run(results, form):
    with sampling_form(form):
        return results()


# `fit` chooses the faster form by itself; with the other one, it is a slow test.
RUNS = [(results, form) for results in (operation, neck) for form in FORMS]
RUNS.append((training, FORMS[-1]))
RUNS += [pytest.param(training, form, marks=pytest.mark.slow) for form in FORMS[:-1]]


@pytest.mark.usefixtures("optimized_graphs")
@pytest.mark.parametrize(("results", "form"), RUNS)
def test_another_run_gives_identical_results(results, form):
    with sampling_form(form):
        again = results()
    for a, b in zip(first_run(results, form), again, strict=True):
        np.testing.assert_array_equal(a, b)


def digest():
    """A fingerprint of all results."""
    bits = hashlib.sha256()
    for results in (operation, neck, training):
        for form in FORMS:
            for array in first_run(results, form):
                bits.update(array.tobytes())
    return bits.hexdigest()


@pytest.mark.slow
def test_another_process_gives_identical_results():
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    environment.pop("OMP_NUM_THREADS", None)
    run = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-1] == digest()


if __name__ == "__main__":
    print(digest())
