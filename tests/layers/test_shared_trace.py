"""SharedTrace compiles once, and passes on the gradients of the layers."""

import re

import keras
import numpy as np
import pytest
from backend import as_function, relative_error, run, vjp

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


@pytest.mark.tensorflow
@pytest.mark.parametrize("batch", [1, None])
def test_xla_compiles_a_training_step_once_for_all_weights(batch):
    """It would compile again for each change of what it takes for a constant."""
    import tensorflow as tf

    neck = DyHeadNeck(2, 16)
    pyramid = [tf.ones((1, n, n, 16)) for n in (4, 2)]
    neck.build([x.shape for x in pyramid])
    specs = [tf.TensorSpec((batch, *x.shape[1:])) for x in pyramid]

    @tf.function(jit_compile=True, input_signature=[specs])
    def gradients(maps):
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_sum(x**2) for x in neck(maps, training=True)])
        return tape.gradient(loss, [v.value for v in neck.trainable_variables])

    program = gradients.experimental_get_compiler_ir(pyramid)()
    program = program[program.index("ENTRY") :]
    assert len(re.findall(r" = f32\[3,3,16,16\]\S* parameter\(", program)) == 6
    assert not re.findall(r"ReadVariableOp\S* = .* constant\(.*", program)


@pytest.mark.parametrize(("spatial", "sides"), [(True, (8, 4)), (False, (5, 2))])
def test_a_loop_gives_each_block_its_own_gradients(spatial, sides):
    """XLA loops over the blocks in training. On PyTorch, both results come from the same code."""
    rng = np.random.default_rng(0)
    pyramid = [rng.normal(size=(1, n, n, 16)).astype("float32") for n in sides]
    neck = DyHeadNeck(2, 16, use_spatial_attention=spatial)
    neck.build([x.shape for x in pyramid])
    for weight in neck.weights:
        weight.assign(weight + rng.normal(0, 0.1, weight.shape))
    neck.blocks[0].trainable = False
    cotangent = rng.normal(size=sum(x.size for x in pyramid)).astype("float32")
    expected, expected_gradients = vjp(*as_function(neck, pyramid), cotangent)
    function, arrays = as_function(neck, pyramid, training=True)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        function = tf.function(function, jit_compile=True)
    output, gradients = vjp(function, arrays, cotangent)
    assert relative_error(output, expected) < 1e-5
    assert len(gradients) == len(pyramid) + len(neck.blocks[1].trainable_variables)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert relative_error(gradient, wanted) < 1e-5


def lora_in_one_block(neck):
    neck.blocks[1].spatial_attention.offset_conv.enable_lora(2)


def lora_in_different_layers(neck):
    neck.blocks[0].spatial_attention.offset_conv.enable_lora(2)
    neck.blocks[1].task_attention.squeeze.enable_lora(2)


def lora_of_different_ranks(neck):
    for block, rank in zip(neck.blocks, (2, 4), strict=True):
        block.spatial_attention.offset_conv.enable_lora(rank)


def lora_of_different_strengths(neck):
    for block, alpha in zip(neck.blocks, (2, 32), strict=True):
        block.spatial_attention.offset_conv.enable_lora(2, lora_alpha=alpha)


@pytest.mark.parametrize(
    ("change", "compiled"),
    [
        (lora_in_one_block, False),
        (lora_of_different_strengths, False),
        pytest.param(lora_in_different_layers, False, marks=pytest.mark.slow),
        pytest.param(lora_of_different_ranks, False, marks=pytest.mark.slow),
        pytest.param(
            lora_of_different_strengths, True, marks=[pytest.mark.tensorflow, pytest.mark.slow]
        ),
    ],
)
def test_blocks_may_differ_in_more_than_weights(change, compiled):
    rng = np.random.default_rng(0)
    pyramid = [rng.normal(size=(1, n, n, 16)).astype("float32") for n in (4, 2)]
    neck = DyHeadNeck(2, 16)
    neck.build([x.shape for x in pyramid])
    change(neck)
    for weight in neck.trainable_variables:
        weight.assign(weight + 0.1 * rng.normal(size=weight.shape))
    expected = run(neck, pyramid)
    function, arrays = as_function(neck, pyramid, training=True)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        function = tf.function(function, jit_compile=compiled)
    output, gradients = vjp(function, arrays, np.ones(sum(x.size for x in pyramid), "float32"))
    assert relative_error(output, np.concatenate([x.ravel() for x in expected])) < 1e-5
    assert len(gradients) == len(pyramid) + len(neck.trainable_variables)
