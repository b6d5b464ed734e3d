"""FeaturePyramid against a NumPy float64 reference written from the definition."""

import itertools

import keras
import numpy as np
import pytest
from backend import run

from keras_dyhead.layers.feature_pyramid import FeaturePyramid

SIZES = {"P3": (25, 34, 3), "P4": (13, 17, 4), "P5": (7, 9, 5)}


def backbone_maps(seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    return {k: rng.standard_normal((2, *s)).astype(dtype) for k, s in SIZES.items()}


def conv(x, layer, stride=1):
    """A symmetric-padded convolution as a loop over taps, in float64."""
    kernel, bias = (w.astype("float64") for w in layer.get_weights())
    size = kernel.shape[0]
    pad = size // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = (-(-(n - 2 * pad) // stride) for n in x.shape[1:3])
    out = np.zeros((x.shape[0], height, width, kernel.shape[-1])) + bias
    for i, j in itertools.product(range(size), repeat=2):
        out += x[:, i::stride, j::stride][:, :height, :width] @ kernel[i, j]
    return out


def reference(layer, maps):
    maps = {k: v.astype("float64") for k, v in maps.items()}
    merged, previous = {}, None
    for level in reversed(maps):
        x = conv(maps[level], layer.lateral_convs[level])
        if previous is not None:  # torch's nearest rule: source = floor(i * in / out)
            rows = np.arange(x.shape[1]) * previous.shape[1] // x.shape[1]
            columns = np.arange(x.shape[2]) * previous.shape[2] // x.shape[2]
            x = x + previous[:, rows][:, :, columns]
        merged[level] = previous = x
    out = {k: conv(merged[k], layer.output_convs[k]) for k in maps}
    x = maps["P5"] if layer.extra_levels == "on_input" else out["P5"]
    for level in ("P6", "P7"):
        if layer.extra_levels == "pool":
            x = x[:, ::2, ::2]
        else:
            x = conv(x, layer.extra_convs[level], stride=2)
        out[level] = x
        x = np.maximum(x, 0) if layer.relu_before_extra_convs else x
    return out


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("extra_levels", ["on_input", "on_output", "pool"])
def test_every_variant_equals_the_definition_on_odd_sizes(extra_levels, relu):
    layer = FeaturePyramid(6, extra_levels=extra_levels, relu_before_extra_convs=relu)
    maps = backbone_maps()
    shapes = {level: x.shape for level, x in maps.items()}
    output_shapes = layer.compute_output_shape(shapes)
    layer.build(shapes)
    for conv_layer in layer._flatten_layers(include_self=False):
        conv_layer.bias.assign(np.random.default_rng(1).standard_normal(6))
    out = run(layer, maps)
    expected = reference(layer, maps)
    assert list(out) == ["P3", "P4", "P5", "P6", "P7"]
    assert output_shapes == {level: x.shape for level, x in out.items()}
    for level in expected:
        np.testing.assert_allclose(out[level], expected[level], rtol=1e-5, atol=1e-5)


def test_shapes_are_known_before_the_weights():
    layer = FeaturePyramid(6, max_level=10, dtype="mixed_bfloat16")
    maps = [keras.KerasTensor((None, None, side, 4)) for side in (25, 13)]
    expected = [(None, None, side, 6) for side in (25, 13, 7, 4, 2, 1, 1, 1)]
    assert layer.compute_output_shape([x.shape for x in maps]) == expected
    found = layer.compute_output_spec(dict(zip(("P3", "P4"), maps, strict=True)))
    assert [found[f"P{number}"].shape for number in range(3, 11)] == expected
    assert found["P9"].dtype == "bfloat16" and not layer.built


def test_strided_convolutions_pad_symmetrically_on_even_sizes():
    """Keras' "same" would read pixels 0..2 for output 0; the published code reads -1..1."""
    layer = FeaturePyramid(1, min_level=3, max_level=4, extra_levels="on_input")
    layer.build([(None, None, None, 1)])
    layer.extra_convs["P4"].set_weights([np.arange(9.0).reshape(3, 3, 1, 1), np.zeros(1)])
    x = np.zeros((1, 4, 4, 1), "float32")
    x[0, 0, 0] = 1
    np.testing.assert_array_equal(np.squeeze(run(layer, [x])[1]), [[4, 0], [0, 0]])


def test_lists_name_levels_from_min_level_and_other_levels_are_ignored():
    maps = backbone_maps() | {"P2": np.zeros((2, 50, 68, 2), "float32")}
    layer = FeaturePyramid(6)
    from_dict = run(layer, maps)
    from_list = run(layer, [maps["P3"], maps["P4"], maps["P5"]])
    assert isinstance(from_list, list)
    for a, b in zip(from_dict.values(), from_list, strict=True):
        np.testing.assert_array_equal(a, b)


def test_dynamic_sizes_in_a_saved_model_give_the_eager_result(tmp_path):
    maps = backbone_maps()
    inputs = {k: keras.Input((None, None, s[-1]), name=k) for k, s in SIZES.items()}
    model = keras.Model(inputs, FeaturePyramid(6, max_level=6, name="fpn")(inputs))
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    expected = run(model.get_layer("fpn"), maps)
    out = restored.predict(maps, verbose=0)
    assert list(expected) == sorted(out) == ["P3", "P4", "P5", "P6"]
    for level in out:
        np.testing.assert_allclose(out[level], expected[level], rtol=1e-5, atol=1e-5)


def test_the_policy_sets_the_dtype_of_every_level():
    layer, dtypes = FeaturePyramid(6, dtype="mixed_bfloat16"), set()
    layer.build({level: x.shape for level, x in backbone_maps().items()})

    def call(maps):
        out = layer(maps)
        dtypes.update(keras.backend.standardize_dtype(x.dtype) for x in out.values())
        return out

    assert all(np.isfinite(x).all() for x in run(call, backbone_maps()).values())
    assert dtypes == {"bfloat16"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "channels=0"),
        ({"min_level": 5, "max_level": 4}, "min_level=5"),
        ({"extra_levels": "p5"}, "'p5'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        FeaturePyramid(**arguments)


def test_a_missing_level_is_named():
    maps = backbone_maps()
    del maps["P4"]
    with pytest.raises(ValueError, match="consecutive levels from P3"):
        FeaturePyramid(6)(maps)


def test_building_a_model_of_unknown_sizes_computes_no_maps(monkeypatch):
    """PyTorch's meta device infers shapes; otherwise Keras would compute the maps of 89 images."""
    calls, call = [], FeaturePyramid.call
    monkeypatch.setattr(
        FeaturePyramid, "call", lambda self, maps: calls.append(1) or call(self, maps)
    )
    FeaturePyramid(16)({f"P{level}": keras.Input((None, None, 16)) for level in (3, 4, 5)})
    assert len(calls) <= 2  # PyTorch infers from two sizes which sides are unknown
