"""Vector-Jacobian products on whichever backend Keras runs."""

import keras
import numpy as np


def vjp(function, arrays, cotangent):
    """Returns `function(*arrays)` and the gradients of `sum(output * cotangent)`, all as numpy."""
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

        output, pullback = jax.vjp(function, *(jax.numpy.asarray(array) for array in arrays))
        gradients = pullback(jax.numpy.asarray(cotangent))
    else:
        import torch

        tensors = [torch.tensor(array, requires_grad=True) for array in arrays]
        output = function(*tensors)
        gradients = torch.autograd.grad(output, tensors, torch.tensor(cotangent))
    to_numpy = keras.ops.convert_to_numpy
    return np.asarray(to_numpy(output)), [np.asarray(to_numpy(g)) for g in gradients]


def relative_error(found, expected):
    """Largest difference over the largest expected magnitude; NaN anywhere gives NaN or inf."""
    found, expected = np.asarray(found, "float64"), np.asarray(expected, "float64")
    assert found.shape == expected.shape, (found.shape, expected.shape)
    scale = np.abs(expected).max(initial=0.0)
    return np.abs(found - expected).max(initial=0.0) / (scale if scale > 0 else 1.0)
