"""Settings for the whole suite.

Fixtures import what they need: the process that hands tests to others would import it for nothing.
"""

import gc
import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
# On JAX nearly all time goes into compiling programs that then run once, on small tensors.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a process for every core: threads of one would only wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish():
    """Has garbage collection pass over the frameworks' objects, which live as long as the tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def unoptimized_graphs(request):
    """Skips graph optimization, which takes longer than running most tests. Not with `-m slow`."""
    import keras

    if keras.backend.backend() == "tensorflow" and request.config.option.markexpr == "not slow":
        import tensorflow as tf

        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture
def optimized_graphs():
    """Optimizes graphs as for users, where it might make a difference."""
    import keras

    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    before = tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer", False)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": before})


@pytest.fixture(scope="module", autouse=True)
def freed_memory():
    """Lets go of the models of a file after its last test: they refer to themselves."""
    yield
    gc.collect()


@pytest.fixture(scope="module", autouse=True)
def seeded_fixtures():
    """Has what a file's fixtures draw be the same whichever files came before."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def seeded_test():
    """Has what a test draws, such as initial weights, be the same whichever tests came before."""
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


@pytest.fixture
def eager():
    """Runs the functions of TensorFlow uncompiled: quicker where each runs but a few times."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="session")
def small_model():
    """One detector for all tests of a process that leave it as it is."""
    from small_detector import small_detector

    return small_detector()


@pytest.fixture
def forms(monkeypatch):
    """A function that says by which operations was sampled since the last call: a set of forms."""
    import tensorflow as tf

    from keras_dyhead.ops import deform_conv

    product, sample = tf.raw_ops.SparseMatrixMatMul, deform_conv.gather_matmul
    products, found = [], set()

    def spied_product(**arguments):
        products.append(arguments)
        return product(**arguments)

    def spied_sample(*arguments):
        products.clear()
        outputs = sample(*arguments)
        found.add("sparse" if products else "gather")
        return outputs

    def forms():
        taken = set(found)
        found.clear()
        return taken

    monkeypatch.setattr(tf.raw_ops, "SparseMatrixMatMul", spied_product)
    monkeypatch.setattr(deform_conv, "gather_matmul", spied_sample)
    return forms
