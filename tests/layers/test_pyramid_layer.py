"""Which inputs layers accept and refuse, eager and symbolic, in first and later calls."""

import json

import keras
import numpy as np
import pytest
from backend import run, slow_on_jax

from keras_dyhead.layers import (
    DeformConv2D,
    DyHeadBlock,
    DyHeadNeck,
    FeaturePyramid,
    ScaleAwareAttention,
    SpatialAwareAttention,
    TaskAwareAttention,
)
from keras_dyhead.layers.modulated_deform_conv2d import ModulatedDeformConv2D

ON_PYRAMIDS = {
    "DyHeadNeck": lambda: DyHeadNeck(1, 16),
    "DyHeadNeck-0": lambda: DyHeadNeck(0, 16),
    "DyHeadBlock": lambda: DyHeadBlock(16),
    "SpatialAwareAttention": lambda: SpatialAwareAttention(16),
    "FeaturePyramid": lambda: FeaturePyramid(16, max_level=5),
}
ON_MAPS = {
    "TaskAwareAttention": TaskAwareAttention,
    "ModulatedDeformConv2D": lambda: ModulatedDeformConv2D(4),
}
GOOD = [(1, 8, 8, 16), (1, 4, 4, 16)]
ON_EVERY_PYRAMID = pytest.mark.parametrize("name", ON_PYRAMIDS)
ALIKE = pytest.mark.parametrize("tensor", [keras.KerasTensor, np.zeros], ids=["symbols", "tensors"])


def assert_refused(make, inputs, message, good=None):
    """Checks the error in the first call and in a later one."""
    with pytest.raises(ValueError, match=f"{message}.*Received: shapes"):
        make()(inputs)
    layer = make()
    layer.build(GOOD if good is None else good)
    with pytest.raises(ValueError, match=f"{message}.*Received: shapes"):
        layer(inputs)


@ALIKE
@ON_EVERY_PYRAMID
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(1, 8, 8, 16), (2, 4, 4, 16)], "equal batch sizes"),
        ([(8, 8, 16), (4, 4, 16)], "must have shape"),
        ([(1, 8, 8, 4, 16)], "must have shape"),
        ((1, 8, 8, 16), "a list or a dict"),
        ([], "at least one level"),
        ([(1, 0, 8, 16), (1, 0, 4, 16)], "at least one pixel"),
        ([(1, 2, 2, 16), (1, 4, 4, 16)], "must halve"),
        ([(1, 8, 8, 16), (1, 8, 8, 16)], "must halve"),
        ([(1, 8, 8, 16), (1, 2, 2, 16)], "must halve"),
    ],
)
def test_invalid_pyramids_are_refused(name, tensor, shapes, message):
    inputs = [tensor(shape) for shape in shapes] if isinstance(shapes, list) else tensor(shapes)
    assert_refused(ON_PYRAMIDS[name], inputs, message)


@pytest.mark.parametrize("name", ["DyHeadNeck", "DyHeadBlock"])
def test_names_in_the_wrong_order_are_refused_even_if_sizes_are_unknown(name):
    levels = {f"P{number}": keras.Input((None, None, 16)) for number in (10, 9)}
    assert_refused(ON_PYRAMIDS[name], levels, "must halve.*fine to coarse")


@ALIKE
@ON_EVERY_PYRAMID
def test_a_built_layer_refuses_other_channels(name, tensor):
    layer = ON_PYRAMIDS[name]()
    layer.build(GOOD)
    more = [tensor((*shape[:-1], 32)) for shape in GOOD]
    with pytest.raises(ValueError, match="channels|to have value 16"):
        layer(more)


@ALIKE
@pytest.mark.parametrize("name", ["DyHeadNeck", "FeaturePyramid"])
@pytest.mark.parametrize("shapes", [GOOD[:1], [*GOOD, (1, 2, 2, 16)]])
def test_a_built_layer_refuses_another_number_of_levels(name, tensor, shapes):
    layer = ON_PYRAMIDS[name]()
    layer.build(GOOD)
    with pytest.raises(ValueError, match="was built for .*Received: shapes"):
        layer([tensor(shape) for shape in shapes])


@pytest.mark.parametrize("size", [7, 9])
def test_a_backbone_that_rounds_down_is_refused_by_the_feature_pyramid(size):
    shapes = [(1, size, size, 16), (1, size // 2, size // 2, 16)]
    assert_refused(ON_PYRAMIDS["FeaturePyramid"], list(map(np.zeros, shapes)), "rounded up")
    assert len(DyHeadNeck(1, 16)([keras.KerasTensor(shape) for shape in shapes])) == 2


@ALIKE
@pytest.mark.parametrize("other", [(1, 4, 4, 16), (1, 1, 1, 16), (2, 8, 8, 16), (1, 8, 8, 8)])
def test_scale_attention_needs_maps_of_one_size(tensor, other):
    assert_refused(
        ScaleAwareAttention,
        [tensor(GOOD[0]), tensor(other)],
        "(same size|equal batch)",
        GOOD[:1] * 2,
    )


@ALIKE
@pytest.mark.parametrize("name", ON_MAPS)
@pytest.mark.parametrize("shape", [(8, 8, 16), (1, 8, 8, 8, 16), (1, 8, 8, 32)])
def test_layers_on_one_map_refuse_others(name, tensor, shape):
    layer = ON_MAPS[name]()
    if shape[-1] == 16:
        with pytest.raises(ValueError, match="must have shape"):
            layer(tensor(shape))
    layer.build(GOOD[0])
    with pytest.raises(ValueError, match="expected (ndim=4|axis -1 of input shape)"):
        layer(tensor(shape))


@pytest.mark.parametrize("name", [*ON_MAPS, "ScaleAwareAttention"])
def test_unknown_channels_are_refused(name):
    map_ = keras.Input((8, 8, None))
    with pytest.raises(ValueError, match="known channels"):
        if name == "ScaleAwareAttention":
            ScaleAwareAttention()([map_, map_])
        else:
            ON_MAPS[name]()(map_)


@ALIKE
def test_offset_groups_must_divide_the_channels(tensor):
    with pytest.raises(ValueError, match="offset_groups=3"):
        ModulatedDeformConv2D(6, offset_groups=3)(tensor(GOOD[0]))


@pytest.mark.parametrize(
    "name",
    slow_on_jax(
        [*ON_PYRAMIDS, *ON_MAPS, "ScaleAwareAttention"], ("DyHeadBlock", "SpatialAwareAttention")
    ),
)
def test_integers_are_computed_as_floats(name):
    rng = np.random.default_rng(0)
    levels = [rng.integers(0, 255, shape).astype("uint8") for shape in GOOD]
    if name == "ScaleAwareAttention":
        layer, levels = ScaleAwareAttention(), [levels[0], levels[0][:, ::-1]]
    elif name in ON_MAPS:
        layer, levels = ON_MAPS[name](), levels[0]
    else:
        layer = ON_PYRAMIDS[name]()
    expected = run(layer, keras.tree.map_structure(lambda x: x.astype("float32"), levels))
    for a, b in zip(*map(keras.tree.flatten, (run(layer, levels), expected)), strict=True):
        assert a.dtype == "float32"
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["SpatialAwareAttention", "ScaleAwareAttention"])
def test_dicts_and_lists_of_maps_compute_the_same(name):
    layer = {**ON_PYRAMIDS, "ScaleAwareAttention": ScaleAwareAttention}[name]()
    shapes = GOOD if name in ON_PYRAMIDS else GOOD[:1] * 2
    maps = list(np.random.default_rng(0).normal(size=s).astype("float32") for s in shapes)
    found = run(layer, dict(zip(("P3", "P4"), maps, strict=True)))
    for a, b in zip(*map(keras.tree.flatten, (found, run(layer, maps))), strict=True):
        np.testing.assert_array_equal(a, b)


NUMBERS = {
    "num_blocks": lambda n: DyHeadNeck(n, 16),
    "channels": lambda n: DyHeadNeck(0, n),
    "groups": lambda n: SpatialAwareAttention(16, groups=n),
    "reduction": lambda n: TaskAwareAttention(n),
    "min_level": lambda n: FeaturePyramid(16, n),
    "max_level": lambda n: FeaturePyramid(16, 2, n),
    "padding": lambda n: DeformConv2D(8, padding=n),
    "filters": lambda n: ModulatedDeformConv2D(n),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_ints_and_so_they_are_in_the_config(name):
    config = NUMBERS[name](np.int64(4)).get_config()
    expected = (4, 4) if name == "padding" else 4
    assert config[name] == expected and json.dumps(config[name])
    for wrong in (4.0, True, [4], None, -1):
        with pytest.raises(ValueError, match=rf"`{name}` must be an int of .*{name}="):
            NUMBERS[name](wrong)


@pytest.mark.tensorflow
@ON_EVERY_PYRAMID
def test_a_layer_is_built_from_tensorflows_own_shapes(name):
    import tensorflow as tf

    layer = ON_PYRAMIDS[name]()
    layer.build([tf.TensorShape(shape) for shape in GOOD])
    assert layer.built
