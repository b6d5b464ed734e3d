"""Sampling a small map as if it were enlarged, against enlarging it and then sampling."""

import functools

import numpy as np
import pytest
from backend import relative_error, vjp
from keras import ops
from numpy_reference import deform_conv2d, resize_align_corners

from keras_dyhead.ops.deform_conv import deform_conv_rows
from keras_dyhead.ops.resize import resize_align_corners as enlarge
from keras_dyhead.ops.rows import MapRows
from keras_dyhead.ops.sampling_grid import concatenate_grids, sampling_grid

pytestmark = pytest.mark.tensorflow  # only TensorFlow has sparse products
PYRAMIDS = {
    "halves": [((3, 4), (6, 8))],
    "odd": [((4, 3), (7, 5)), ((2, 2), (4, 3)), ((1, 1), (2, 2))],
    "one pixel": [((1, 1), (1, 1))],
    "one row": [((1, 4), (1, 8))],
    "same size": [((3, 5), (3, 5))],
    "three times": [((2, 3), (6, 9))],
    "large": [((8, 16), (16, 32))],
}


def problem(pairs, dtype):
    """Maps, offsets, masks, a kernel and the gradient of the outputs; some taps on every border."""
    rng = np.random.default_rng(0)
    positions = sum(height * width for _, (height, width) in pairs)
    maps = [rng.normal(size=(2, *small, 4)).astype(dtype) for small, _ in pairs]
    offsets = rng.normal(scale=2, size=(2, positions, 18)).astype("float32")
    special = rng.random(offsets.shape)
    offsets = np.where(special < 0.3, np.round(offsets), offsets)
    offsets[special > 0.95] = np.nan
    offsets[special > 0.98] = 1e9
    mask = rng.random((2, positions, 9)).astype("float32")
    kernel = rng.normal(size=(3, 3, 4, 5)).astype(dtype)
    return [*maps, offsets, mask, kernel], rng.normal(size=(2, positions, 5)).astype(dtype)


def sample(pairs, enlarged, *arrays):
    *maps, offsets, mask, kernel = arrays
    sizes = [size for _, size in pairs]
    if not enlarged:
        maps = [enlarge(x, size) for x, size in zip(maps, sizes, strict=True)]
    rows = MapRows(maps)
    grids = [
        sampling_grid(size, size, start=start, stored_size=ops.shape(x)[1:3] if enlarged else None)
        for x, size, start in zip(maps, sizes, rows.starts, strict=True)
    ]
    return deform_conv_rows(rows.values, concatenate_grids(grids), offsets, mask, kernel)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("name", PYRAMIDS)
def test_samples_the_values_of_the_enlarged_map(name, compiled):
    """In a graph, TensorFlow divides by a constant as it sees fit, forward or back."""
    import tensorflow as tf

    pairs = PYRAMIDS[name]
    arrays, grad = problem(pairs, "float32")
    enlarged = functools.partial(sample, pairs, True)
    found, gradients = vjp(tf.function(enlarged) if compiled else enlarged, arrays, grad)
    wanted, expected = vjp(lambda *x: sample(pairs, False, *x), arrays, grad)
    assert relative_error(found, wanted) <= 1e-5
    for a, b in zip(gradients, expected, strict=True):
        assert relative_error(a, b) <= 1e-4


def test_agrees_with_a_float64_loop():
    ((small, size),) = pairs = PYRAMIDS["halves"]
    arrays, grad = problem(pairs, "float64")
    x, offsets, mask, kernel = arrays
    found, _ = vjp(lambda *x: sample(pairs, True, *x), arrays, grad)
    expected = deform_conv2d(
        resize_align_corners(x, size),
        offsets.reshape(2, *size, 18),
        mask.reshape(2, *size, 9),
        kernel,
    )
    assert relative_error(found, expected.reshape(found.shape)) <= 1e-5


def test_sizes_may_be_unknown_when_it_is_traced():
    import tensorflow as tf

    ((_, size),) = pairs = PYRAMIDS["halves"]
    arrays, grad = problem(pairs, "float32")
    expected = vjp(lambda *x: sample(pairs, True, *x), arrays, grad)
    unknown = [tf.TensorSpec((None, *[None] * (x.ndim - 2), x.shape[-1])) for x in arrays[:3]]

    @tf.function(
        input_signature=[tf.TensorSpec((2,), "int32"), *unknown, tf.TensorSpec((3, 3, 4, 5))]
    )
    def step(size, *tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            outputs = sample([(None, tuple(tf.unstack(size)))], True, *tensors)
        return outputs, tape.gradient(outputs, tensors, grad)

    found = step(tf.constant(size), *map(tf.constant, arrays))
    for a, b in zip([found[0], *found[1]], [expected[0], *expected[1]], strict=True):
        assert relative_error(a, b) <= 1e-5
