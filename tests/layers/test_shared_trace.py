"""SharedTrace passes on the gradients of the layers."""

import keras
import numpy as np
import pytest

from keras_dyhead.layers import DyHeadNeck


@pytest.mark.tensorflow
@pytest.mark.usefixtures("optimized_graphs")
def test_biases_before_the_neck_get_their_own_gradients_in_a_graph():
    """oneDNN's pass would swap those of the levels at random, so the test traces several times.

    The pass fuses the gradients of a convolution's kernel and bias.
    """
    import tensorflow as tf

    rng = np.random.default_rng(0)
    pyramid = [rng.normal(size=(1, n, n, 8)).astype("float32") for n in (8, 4, 2)]
    convolutions = [keras.layers.Conv2D(16, 3, padding="same") for _ in pyramid]
    neck = DyHeadNeck(1, 16)

    def gradients():
        with tf.GradientTape() as tape:
            maps = [conv(x) for conv, x in zip(convolutions, pyramid, strict=True)]
            loss = sum(tf.reduce_mean(x**2) for x in neck(maps, training=True))
        return tape.gradient(loss, [w.value for conv in convolutions for w in conv.weights])

    expected = gradients()
    for _ in range(2):
        for actual, gradient in zip(tf.function(gradients)(), expected, strict=True):
            np.testing.assert_allclose(actual, gradient, atol=1e-4 * np.abs(gradient).max())
