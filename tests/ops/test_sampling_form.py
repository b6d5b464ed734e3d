"""The sampler chooses the fastest form that the runtime supports."""

import keras
import numpy as np
import pytest
from backend import relative_error

from keras_dyhead.ops import deform_conv2d
from keras_dyhead.ops.sampling_form import chosen_form, sampling_form

SHAPES = ((1, 4, 4, 2), (1, 4, 4, 18), (1, 4, 4, 9), (3, 3, 2, 2))


def arrays():
    rng = np.random.default_rng(0)
    return [keras.ops.convert_to_tensor(rng.normal(size=shape), "float32") for shape in SHAPES]


def convolve(*tensors):
    return deform_conv2d(*(tensors or arrays()))


def step():
    """Outputs and gradients."""
    import tensorflow as tf

    tensors = arrays()
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        outputs = convolve(*tensors)
    return [outputs, *tape.gradient(outputs, tensors)]


def operations(function):
    """The types of all operations of a compiled function, including inner functions."""
    graph = function.get_concrete_function().graph.as_graph_def()
    inner = [node for inner in graph.library.function for node in inner.node_def]
    return {node.op for node in [*graph.node, *inner]}


@pytest.mark.tensorflow
def test_tensorflow_on_cpus_multiplies_sparse_matrices(forms):
    import tensorflow as tf

    convolve()
    assert forms() == {"sparse"}
    assert {"SparseMatrixMatMul", "SparseMatrixTranspose"} <= operations(tf.function(step))
    assert forms() == {"sparse"}


@pytest.mark.tensorflow
def test_other_backends_only_gather(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with sampling_form("sparse"):
        assert chosen_form() == "gather"


@pytest.mark.tensorflow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_gathered_even_if_forced(dtype, forms):
    x, offsets, mask, kernel = arrays()
    for form in ("sparse", "gather"):
        with sampling_form(form):
            convolve(keras.ops.cast(x, dtype), offsets, mask, kernel)
    convolve(keras.ops.cast(x, dtype), offsets, mask, kernel)
    assert forms() == {"gather"}


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", ["GPU", "TPU"])
def test_an_accelerator_gathers_unless_it_is_hidden(kind, monkeypatch):
    import tensorflow as tf

    cpu = tf.config.PhysicalDevice("/physical_device:CPU:0", "CPU")
    other = tf.config.PhysicalDevice(f"/physical_device:{kind}:0", kind)
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda: [cpu, other])
    assert chosen_form() == "gather"
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda: [cpu])
    assert chosen_form() == "sparse"


def in_a_loop():
    import tensorflow as tf

    start = -tf.ones((1, 4, 4, 2))
    return tf.while_loop(lambda x: tf.reduce_min(x) == -1, lambda x: convolve(), [start])


def in_a_branch():
    import tensorflow as tf

    return tf.cond(tf.random.uniform(()) < 2, convolve, lambda: tf.zeros((1, 4, 4, 2)))


@pytest.mark.tensorflow
@pytest.mark.parametrize("function", [convolve, step, in_a_loop, in_a_branch])
def test_xla_gathers_wherever_its_context_is_entered(function, forms):
    """XLA has no sparse products and would refuse them."""
    import tensorflow as tf

    for compiled in (
        tf.function(function, jit_compile=True),
        tf.function(lambda: tf.function(function)(), jit_compile=True),
        tf.function(lambda: tf.function(function, jit_compile=True)()),
    ):
        assert "SparseMatrixMatMul" not in operations(compiled)
        compiled()
        assert forms() == {"gather"}
    tf.function(function)()
    assert forms() == {"sparse"}


@pytest.mark.tensorflow
def test_a_gradient_has_the_form_of_its_outputs():
    """Whatever the context in which it is computed."""
    import tensorflow as tf

    def late(form, later):
        tensors = arrays()
        with tf.GradientTape() as tape, sampling_form(form):
            tape.watch(tensors)
            outputs = convolve(*tensors)
        with sampling_form(later):
            return tape.gradient(outputs, tensors)

    assert "SparseMatrixMatMul" not in operations(tf.function(lambda: late("gather", "sparse")))
    found = operations(tf.function(lambda: late("sparse", "gather")))
    assert "SparseMatrixTranspose" in found and "UnsortedSegmentSum" not in found


@pytest.mark.tensorflow
def test_a_form_is_forced_only_inside_the_context(forms):
    import tensorflow as tf

    with pytest.raises(ZeroDivisionError), sampling_form("gather"):
        convolve()
        with sampling_form("sparse"):
            assert chosen_form() == "sparse"
        assert "SparseMatrixMatMul" not in operations(tf.function(convolve))
        raise ZeroDivisionError
    assert forms() == {"gather"} and chosen_form() == "sparse"
    with pytest.raises(ValueError, match="form='dense'"), sampling_form("dense"):
        pass


@pytest.mark.tensorflow
def test_jacobians_and_vectorized_maps_are_the_same_in_both_forms():
    """TensorFlow vectorizes neither the sparse product nor the loop: it falls back."""
    import tensorflow as tf

    def results():
        tensors = arrays()
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            outputs = convolve(*tensors)
        stacked = tf.stack([tensors[0], 2 * tensors[0]])
        mapped = tf.vectorized_map(lambda x: convolve(x, *tensors[1:]), stacked)
        return [mapped, *tape.jacobian(outputs, tensors)]

    with sampling_form("gather"):
        expected = results()
    for found, wanted in zip(results(), expected, strict=True):
        assert relative_error(found, wanted) <= 1e-5
