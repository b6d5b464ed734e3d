"""What every public layer owes to Keras: configs, dynamic shapes, dtype policies, XLA, saving."""

import keras
import numpy as np
import pytest
from gradients import relative_error

from keras_dyhead.layers import (
    DeformConv2D,
    DyHeadBlock,
    DyHeadNeck,
    ModulatedDeformConv2D,
    ScaleAwareAttention,
    SpatialAwareAttention,
    TaskAwareAttention,
)

ODD = ((9, 13), (5, 7), (3, 4))


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
    "DyHeadNeck": lambda **kw: (DyHeadNeck(2, 32, **kw), [pyramid_dict()]),
    "DyHeadNeck-published": lambda **kw: (
        DyHeadNeck(1, 32, alignment="published", **kw),
        [pyramid_dict()],
    ),
}


def shake(layer):
    """Gives every weight a seeded value away from its start, so that nothing is trivially zero."""
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(weight + 0.2 * rng.normal(size=weight.shape))


def built(name, **kwargs):
    layer, arguments = LAYERS[name](**kwargs)
    layer(*arguments)
    shake(layer)
    return layer, arguments


def to_numpy(structure):
    return [
        keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))
        for x in keras.tree.flatten(structure)
    ]


def assert_close(found, expected, tolerance):
    for a, b in zip(to_numpy(found), to_numpy(expected), strict=True):
        assert relative_error(a, b) <= tolerance


@pytest.mark.parametrize("name", LAYERS)
def test_config_round_trip_gives_the_same_layer(name):
    layer, arguments = built(name)
    copy = type(layer).from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    copy(*arguments)
    copy.set_weights(layer.get_weights())
    assert_close(copy(*arguments), layer(*arguments), 1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_symbolic_shapes_are_the_shapes_of_the_outputs(name):
    layer, arguments = built(name)
    specs = keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape), arguments)
    symbolic = layer(*specs)
    outputs = layer(*arguments)
    shapes = [tuple(x.shape) for x in keras.tree.flatten(symbolic)]
    assert shapes == [tuple(x.shape) for x in keras.tree.flatten(outputs)]


@pytest.mark.parametrize("name", LAYERS)
def test_one_functional_model_with_unknown_sizes_serves_every_size(name, tmp_path):
    layer, arguments = built(name)
    inputs = keras.tree.map_structure(
        lambda x: keras.Input((*(None,) * (x.ndim - 2), x.shape[-1])), arguments
    )
    model = keras.Model(inputs, layer(*inputs))
    expected = layer(*arguments)
    assert_close(model(arguments), expected, 1e-6)
    assert_close(model.predict(arguments, verbose=0), expected, 1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_close(loaded(arguments), expected, 1e-6)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", LAYERS)
def test_mixed_precision_computes_in_half_and_stays_near_float32(name, dtype):
    layer, arguments = built(name)
    half, _ = built(name, dtype=dtype)
    half.set_weights(layer.get_weights())
    found = half(*arguments)
    for x in keras.tree.flatten(found):
        assert keras.backend.standardize_dtype(x.dtype) == dtype.removeprefix("mixed_")
    assert all(keras.backend.standardize_dtype(w.dtype) == "float32" for w in half.weights)
    for a, b in zip(to_numpy(found), to_numpy(layer(*arguments)), strict=True):
        assert np.sqrt(np.mean((a - b) ** 2)) <= 0.06 * np.std(b)


@pytest.mark.parametrize("name", ["DeformConv2D", "DyHeadBlock", "DyHeadNeck-published"])
def test_xla_computes_the_same_and_gradients_reach_inputs_and_weights(name):
    import tensorflow as tf

    layer, arguments = built(name)
    tensors = keras.tree.map_structure(tf.constant, arguments)

    def outputs_and_gradients():
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            outputs = keras.tree.flatten(layer(*tensors))
            loss = sum(tf.reduce_sum(tf.sin(x)) for x in outputs)
        sources = keras.tree.flatten(tensors) + [v.value for v in layer.trainable_variables]
        return outputs, tape.gradient(loss, sources)

    eager = outputs_and_gradients()
    assert all(np.abs(g).max() > 0 for g in eager[1]), "a gradient is missing"
    compiled = tf.function(outputs_and_gradients, jit_compile=True)()
    assert_close(compiled[0], eager[0], 1e-4)
    assert_close(compiled[1], eager[1], 1e-3)
