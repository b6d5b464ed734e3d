"""Settings for the whole suite."""

import gc
import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
# On JAX nearly all time goes into compiling programs that then run once, on small tensors.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.fixture(scope="module", autouse=True)
def freed_memory():
    """Lets go of the models of a file after its last test: they refer to themselves."""
    _seed()
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def seeded():
    """Has initial weights be the same whichever tests ran before."""
    _seed()


def _seed():
    import keras

    keras.utils.set_random_seed(0)


def pytest_collection_modifyitems(items):
    """Leaves what is about TensorFlow to TensorFlow."""
    import keras

    backend = keras.backend.backend()
    if backend == "tensorflow":
        return
    skip = pytest.mark.skip(reason=f"about TensorFlow's graphs, XLA or dtypes; this is {backend}")
    for item in items:
        if "tensorflow" in item.keywords:
            item.add_marker(skip)
