"""Calls and gradients on whichever backend Keras runs, from and to NumPy."""

import keras
import numpy as np
import pytest

# Only TensorFlow has sparse products.
FORMS = ("gather", "sparse") if keras.backend.backend() == "tensorflow" else ("gather",)

FLOAT64 = pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="JAX has no float64 unless it is asked for"
)


def slow_on_jax(values, slow):
    """Values to parametrize a test with, of which JAX takes some only among the slow tests.

    JAX compiles a program for each, and the others show what they would.
    """
    jax = keras.backend.backend() == "jax"
    return [pytest.param(v, marks=pytest.mark.slow if jax and v in slow else ()) for v in values]


def to_numpy(structure):
    """The same structure with NumPy arrays for tensors, float32 for half precision."""

    def convert(x):
        x = keras.ops.convert_to_numpy(x)
        return x.astype("float32") if x.dtype.itemsize == 2 else x

    return keras.tree.map_structure(convert, structure)


def run(function, *arguments):
    """Returns `function(*arguments)` of tensors as NumPy; the function may be a layer.

    JAX runs it as one compiled program, as it is meant to: outside one, it compiles every single
    operation for every shape.
    """
    if isinstance(function, keras.Layer) and not function.built:
        function(*keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape), arguments))
    arguments = keras.tree.map_structure(keras.ops.convert_to_tensor, arguments)
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        # A function of its own, or JAX would know it, and not look at weights changed meanwhile.
        return to_numpy(jax.jit(lambda *arguments: function(*arguments))(*arguments))
    if backend == "torch":
        import torch

        with torch.no_grad():
            return to_numpy(function(*arguments))
    return to_numpy(function(*arguments))


def vjp(function, arrays, cotangent):
    """Returns `function(*arrays)` and the gradients of `sum(output * cotangent)`, as NumPy."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tensors = [tf.constant(array) for array in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            output = function(*tensors)
        gradients = tape.gradient(output, tensors, output_gradients=tf.constant(cotangent))
    elif backend == "jax":
        import jax

        @jax.jit
        def forward_and_back(arrays, cotangent):
            output, pullback = jax.vjp(function, *arrays)
            return output, pullback(cotangent)

        output, gradients = forward_and_back(arrays, cotangent)
    else:
        import torch

        tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
        output = function(*tensors)
        gradients = torch.autograd.grad(output, tensors, torch.tensor(cotangent))
    return to_numpy(output), [to_numpy(gradient) for gradient in gradients]


def as_function(layer, *arguments, **options):
    """A built layer as a function for `vjp`, and the arrays to call it with.

    The function takes the tensors of `arguments` and the trainable weights, one after the other,
    calls the layer with `options`, too, and returns all outputs as one float32 vector.
    """
    inputs = keras.tree.flatten(arguments)

    def function(*arrays):
        weights = zip(layer.trainable_variables, arrays[len(inputs) :], strict=True)
        with keras.StatelessScope(list(weights)):
            tensors = keras.tree.pack_sequence_as(arguments, list(arrays[: len(inputs)]))
            outputs = layer(*tensors, **options)
        outputs = [keras.ops.reshape(x, (-1,)) for x in keras.tree.flatten(outputs)]
        return keras.ops.cast(keras.ops.concatenate(outputs), "float32")

    return function, [
        *inputs,
        *(to_numpy(variable.value) for variable in layer.trainable_variables),
    ]


def relative_error(found, expected):
    """Largest difference over the largest expected magnitude; NaN anywhere gives NaN or inf."""
    found, expected = (to_numpy(x).astype("float64") for x in (found, expected))
    assert found.shape == expected.shape, (found.shape, expected.shape)
    scale = np.abs(expected).max(initial=0.0)
    return np.abs(found - expected).max(initial=0.0) / (scale if scale > 0 else 1.0)
