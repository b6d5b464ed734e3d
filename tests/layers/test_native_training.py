"""DyHeadNeck in a native training loop of each backend, without Keras' `fit`."""

import keras
import numpy as np
import pytest

from keras_dyhead.layers import DyHeadNeck


def descend_tensorflow(neck, pyramid, loss, rate):
    import tensorflow as tf

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            value = loss(neck(pyramid, training=True))
        weights = neck.trainable_variables
        for weight, gradient in zip(weights, tape.gradient(value, weights), strict=True):
            weight.assign_sub(rate * gradient)
        return value

    while True:
        yield step()


def descend_jax(neck, pyramid, loss, rate):
    import jax

    def value_of(weights):
        outputs, _ = neck.stateless_call(weights, [], pyramid, training=True)
        return loss(outputs)

    @jax.jit
    def step(weights):
        value, gradients = jax.value_and_grad(value_of)(weights)
        return value, jax.tree.map(lambda w, g: w - rate * g, weights, gradients)

    weights = [variable.value for variable in neck.trainable_variables]
    while True:
        value, weights = step(weights)
        yield value


def descend_torch(neck, pyramid, loss, rate):
    import torch

    optimizer = torch.optim.SGD(neck.parameters(), lr=rate)
    while True:
        optimizer.zero_grad()
        value = loss(neck(pyramid, training=True))
        value.backward()
        optimizer.step()
        yield value


@pytest.mark.parametrize(
    "dtype", [pytest.param("float32", marks=pytest.mark.slow), "mixed_bfloat16"]
)
def test_gradient_descent_learns_the_outputs_of_another_neck(dtype):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    pyramid = [
        keras.ops.convert_to_tensor(rng.normal(size=(4, n, n, 16)), "float32") for n in (8, 4)
    ]
    neck = DyHeadNeck(1, 16, dtype=dtype)
    neck.build([x.shape for x in pyramid])
    wanted = [0.5 * keras.ops.relu(x) for x in pyramid]

    def loss(outputs):
        errors = [keras.ops.cast(a, "float32") - b for a, b in zip(outputs, wanted, strict=True)]
        return sum(keras.ops.mean(keras.ops.square(e)) for e in errors)

    descend = globals()[f"descend_{keras.backend.backend()}"]
    losses = descend(neck, pyramid, loss, rate=0.5)
    values = [float(keras.ops.stop_gradient(next(losses))) for _ in range(60)]
    assert values[-1] < 0.5 * values[0]
