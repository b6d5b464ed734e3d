"""DyHeadNeck: structures, projections, numbers of levels and errors."""

import keras
import numpy as np
import pytest
from backend import relative_error, run, to_numpy

from keras_dyhead.layers import DyHeadNeck


def maps(sizes, channels):
    rng = np.random.default_rng(0)
    return [
        rng.normal(size=(1, *size, c)).astype("float32")
        for size, c in zip(sizes, channels, strict=True)
    ]


@pytest.mark.parametrize(
    "sizes", [[(5, 5)], [(9, 6), (5, 3)], [(2**i + 1, 2**i) for i in (6, 5, 4, 3, 2, 1)]]
)
@pytest.mark.parametrize("alignment", ["paper", "published"])
def test_any_number_of_levels_keeps_its_sizes(sizes, alignment):
    pyramid = maps(sizes, [16] * len(sizes))
    outputs = run(DyHeadNeck(2, 16, alignment), pyramid)
    assert [x.shape for x in outputs] == [x.shape for x in pyramid]
    assert all(np.isfinite(x).all() for x in outputs)


def test_dicts_and_lists_compute_the_same():
    pyramid = maps([(8, 8), (4, 4)], [16, 16])
    neck = DyHeadNeck(1, 16)
    from_list = run(neck, pyramid)
    from_dict = run(neck, {"P3": pyramid[0], "P4": pyramid[1]})
    assert list(from_dict) == ["P3", "P4"]
    for a, b in zip(from_list, from_dict.values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_unequal_channels_are_projected_by_a_1x1_convolution_first():
    pyramid = maps([(8, 8), (4, 4), (2, 2)], [24, 32, 48])
    neck = DyHeadNeck(1, 32)
    outputs = run(neck, pyramid)
    assert [x.shape[-1] for x in outputs] == [32, 32, 32]
    assert [projection is None for projection in neck.projections] == [False, True, False]
    projected = [run(p, x) if p else x for p, x in zip(neck.projections, pyramid, strict=True)]
    for a, b in zip(outputs, run(neck.blocks[0], projected), strict=True):
        assert relative_error(a, b) <= 1e-6


def test_no_blocks_leave_the_pyramid_unchanged():
    """Also in a compiled function."""
    pyramid, neck = maps([(8, 8), (4, 4)], [16, 16]), DyHeadNeck(0, 16)
    inputs = [keras.Input(x.shape[1:]) for x in pyramid]
    compiled = keras.Model(inputs, neck(inputs)).predict(pyramid, verbose=0)
    for a, b, c in zip(run(neck, pyramid), compiled, pyramid, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, c)


def test_the_published_size_has_the_published_number_of_parameters():
    """11 503 656 in microsoft/DynamicHead, 11 499 048 without the biases in mmdetection."""
    shapes = {f"P{i}": (None, None, None, 256) for i in range(3, 8)}
    for use_bias, count in ((True, 11_503_656), (False, 11_499_048)):
        neck = DyHeadNeck(use_bias=use_bias)
        neck.build(shapes)
        assert neck.count_params() == count


def test_non_finite_features_of_one_image_do_not_reach_the_other():
    """NaN features give NaN offsets, which must not lead to indices of another image."""
    pyramid = [np.repeat(x, 2, axis=0) for x in maps([(8, 8), (4, 4)], [16, 16])]
    neck = DyHeadNeck(2, 16)
    neck.build([x.shape for x in pyramid])
    rng = np.random.default_rng(0)
    for weight in neck.weights:
        weight.assign(to_numpy(weight) + 0.1 * rng.normal(size=weight.shape))
    clean = run(neck, pyramid)
    pyramid[0][1, 3, 3] = np.nan
    for a, b in zip(run(neck, pyramid), clean, strict=True):
        np.testing.assert_allclose(a[0], b[0], rtol=1e-5, atol=1e-5)
        assert np.isnan(a[1]).any()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([], "at least one level"),
        ({"P3": (None, None, 16)}, "'P3': \\(None, None, 16\\)"),
        ([(None, 8, 8, None)], "known channels"),
    ],
)
def test_invalid_pyramids_are_refused(shapes, message):
    with pytest.raises(ValueError, match=message):
        DyHeadNeck(1, 16).build(shapes)


@pytest.mark.parametrize("sizes", [(4, 8, 16), (16, 4, 1), (16, 9), (16, 16)])
def test_levels_that_do_not_halve_are_refused_in_every_call(sizes):
    """At the first call, in a later one, and in a symbolic one."""
    levels = maps([(n, n) for n in sizes], [16] * len(sizes))
    with pytest.raises(ValueError, match=r"must halve.*\(1, \d+"):
        DyHeadNeck(1, 16)(levels)
    with pytest.raises(ValueError, match="must halve"):
        DyHeadNeck(1, 16)([keras.Input(x.shape[1:]) for x in levels])
    neck = DyHeadNeck(1, 16)
    neck.build([(None, None, None, 16)] * len(sizes))
    with pytest.raises(ValueError, match="must halve"):
        neck(levels)


def test_a_negative_number_of_blocks_is_refused():
    with pytest.raises(ValueError, match="num_blocks=-1"):
        DyHeadNeck(num_blocks=-1)


@pytest.mark.slow  # detectors fit with it on every backend; test_native_training.py is similar
def test_it_trains_with_fit():
    """A one-block neck learns to reproduce the output of another."""
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((8, 8, 16)), keras.Input((4, 4, 16))]
    model = keras.Model(inputs, DyHeadNeck(1, 16)(inputs))
    x = [np.random.default_rng(i).normal(size=(8, n, n, 16)) for i, n in enumerate((8, 4))]
    y = run(DyHeadNeck(1, 16), [a.astype("float32") for a in x])
    model.compile(keras.optimizers.Adam(0.01), loss=["mse", "mse"])
    history = model.fit(x, y, epochs=15, batch_size=8, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]
