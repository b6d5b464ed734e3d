"""What Keras expects of every public layer: configs, dynamic shapes, dtypes, gradients, XLA."""

import functools

import keras
import numpy as np
import pytest
from backend import FLOAT64, as_function, relative_error, run, slow_on_jax, to_numpy, vjp

from keras_dyhead.layers import (
    DeformConv2D,
    DyHeadBlock,
    DyHeadNeck,
    ScaleAwareAttention,
    SpatialAwareAttention,
    TaskAwareAttention,
)
from keras_dyhead.layers.modulated_deform_conv2d import ModulatedDeformConv2D

ODD = ((9, 13), (5, 6), (2, 3))  # halves rounded up and down


def maps(*sizes, channels=16, batch=2):
    """Random float32 maps."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=(batch, *size, channels)).astype("float32") for size in sizes]


def pyramid_dict():
    return dict(zip(("P3", "P4", "P5"), maps(*ODD), strict=True))


LAYERS = {
    "DeformConv2D": lambda **kw: (
        DeformConv2D(8, strides=2, groups=2, offset_groups=2, **kw),
        maps((9, 13))
        + [x[..., :36] for x in maps((5, 7), channels=36)]
        + maps((5, 7), channels=18),
    ),
    "ModulatedDeformConv2D": lambda **kw: (
        ModulatedDeformConv2D(8, strides=2, groups=2, offset_groups=2, **kw),
        maps((9, 13)),
    ),
    "SpatialAwareAttention": lambda **kw: (SpatialAwareAttention(32, **kw), [maps(*ODD)]),
    "SpatialAwareAttention-published": lambda **kw: (
        SpatialAwareAttention(32, alignment="published", use_bias=False, **kw),
        [maps(*ODD)],
    ),
    "ScaleAwareAttention": lambda **kw: (ScaleAwareAttention(**kw), [maps((5, 7), (5, 7))]),
    "TaskAwareAttention": lambda **kw: (TaskAwareAttention(**kw), maps((5, 7))),
    "DyHeadBlock": lambda **kw: (DyHeadBlock(32, **kw), [maps(*ODD)]),
    "DyHeadBlock-ablated": lambda **kw: (
        DyHeadBlock(
            32,
            use_spatial_attention=False,
            use_scale_attention=False,
            use_task_attention=False,
            **kw,
        ),
        [pyramid_dict()],
    ),
    "DyHeadNeck": lambda **kw: (DyHeadNeck(2, 32, start="released", **kw), [pyramid_dict()]),
    "DyHeadNeck-published": lambda **kw: (
        DyHeadNeck(1, 32, alignment="published", **kw),
        [dict(list(pyramid_dict().items())[:2])],  # compiled several times
    ),
}

# Parts of a neck, which it tests as well.
PARTS = ("DyHeadNeck", "DyHeadBlock", "ScaleAwareAttention", "TaskAwareAttention")
PARTS += ("SpatialAwareAttention", "SpatialAwareAttention-published")
EVERY_LAYER = pytest.mark.parametrize("name", slow_on_jax(LAYERS, PARTS))


def build(layer, arguments):
    """Gives every weight a seeded value away from its initial one, so that nothing is zero."""
    layer(*keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape), arguments))
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(to_numpy(weight) + 0.2 * rng.normal(size=weight.shape))


@functools.cache
def built(name):
    """A layer with nontrivial weights, its inputs and its outputs."""
    layer, arguments = LAYERS[name]()
    build(layer, arguments)
    return layer, arguments, run(layer, *arguments)


def assert_close(found, expected, tolerance):
    for a, b in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        assert relative_error(a, b) <= tolerance


@EVERY_LAYER
def test_config_round_trip_gives_the_same_layer(name):
    layer, arguments, expected = built(name)
    copy = type(layer).from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    build(copy, arguments)
    copy.set_weights(layer.get_weights())
    assert_close(run(copy, *arguments), expected, 1e-6)


@EVERY_LAYER
def test_symbolic_shapes_are_the_shapes_of_the_outputs(name):
    layer, arguments, outputs = built(name)
    symbolic = layer(*keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape), arguments))
    shapes = [tuple(x.shape) for x in keras.tree.flatten(symbolic)]
    assert shapes == [x.shape for x in keras.tree.flatten(outputs)]


@EVERY_LAYER
def test_one_functional_model_with_unknown_sizes_serves_every_size(name, tmp_path):
    layer, arguments, expected = built(name)
    inputs = keras.tree.map_structure(
        lambda x: keras.Input((*(None,) * (x.ndim - 2), x.shape[-1])), arguments
    )
    model = keras.Model(inputs, layer(*inputs))
    assert_close(run(model, arguments), expected, 1e-6)
    assert_close(model.predict(arguments, verbose=0), expected, 1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_close(run(loaded, arguments), expected, 1e-6)


@FLOAT64
@EVERY_LAYER
def test_float64_layers_return_float64(name):
    layer, arguments, expected = built(name)
    double, _ = LAYERS[name](dtype="float64")
    build(double, arguments)
    double.set_weights(layer.get_weights())
    tensors = keras.tree.map_structure(
        lambda x: keras.ops.convert_to_tensor(x, "float64"), arguments
    )
    outputs = double(*tensors)
    dtypes = {keras.backend.standardize_dtype(x.dtype) for x in keras.tree.flatten(outputs)}
    assert dtypes == {"float64"}
    assert_close(keras.tree.map_structure(to_numpy, outputs), expected, 1e-4)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
@EVERY_LAYER
def test_mixed_precision_computes_in_half_and_stays_near_float32(name, dtype):
    layer, arguments, expected = built(name)
    half, _ = LAYERS[name](dtype=dtype)
    build(half, arguments)
    half.set_weights(layer.get_weights())
    dtypes = set()

    def call(*arguments):
        outputs = half(*arguments)
        dtypes.update(keras.backend.standardize_dtype(x.dtype) for x in keras.tree.flatten(outputs))
        return outputs

    found = run(call, *arguments)
    assert dtypes == {dtype.removeprefix("mixed_")}
    assert all(keras.backend.standardize_dtype(w.dtype) == "float32" for w in half.weights)
    for a, b in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        assert np.sqrt(np.mean((a - b) ** 2)) <= 0.06 * np.std(b)


@pytest.mark.parametrize(
    "dtype", ["float32", "mixed_bfloat16", pytest.param("float64", marks=FLOAT64)]
)
@pytest.mark.parametrize(
    "name", slow_on_jax(["DeformConv2D", "DyHeadBlock", "DyHeadNeck-published"], PARTS)
)
def test_gradients_reach_inputs_and_weights(name, dtype):
    layer, arguments = LAYERS[name](dtype=dtype)
    build(layer, arguments)
    outputs = keras.tree.flatten(built(name)[2])
    cotangent = np.concatenate([np.cos(x).ravel() for x in outputs])
    _, gradients = vjp(*as_function(layer, *arguments), cotangent)
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0, "a gradient is missing"


# `test_shared_trace.py` has a neck under XLA, too.
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name",
    [
        "DeformConv2D",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("DyHeadBlock", "DyHeadNeck-published")),
    ],
)
def test_xla_computes_the_same_outputs_and_gradients(name):
    import tensorflow as tf

    layer, arguments, _ = built(name)
    tensors = keras.tree.map_structure(tf.constant, arguments)

    def outputs_and_gradients():
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            outputs = keras.tree.flatten(layer(*tensors))
            loss = sum(tf.reduce_sum(tf.sin(x)) for x in outputs)
        sources = keras.tree.flatten(tensors) + [v.value for v in layer.trainable_variables]
        return outputs, tape.gradient(loss, sources)

    eager = outputs_and_gradients()
    compiled = tf.function(outputs_and_gradients, jit_compile=True)()
    assert_close(compiled[0], eager[0], 1e-4)
    assert_close(compiled[1], eager[1], 1e-3)
