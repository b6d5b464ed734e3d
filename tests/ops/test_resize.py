"""Align-corners resizing against a float64 loop and torch's values."""

import numpy as np
import pytest
from backend import relative_error, run
from numpy_reference import resize_align_corners as loop_reference

from keras_dyhead.ops import resize_align_corners


@pytest.mark.parametrize(
    ("size", "new_size"),
    [((2, 3), (4, 5)), ((1, 1), (2, 2)), ((13, 17), (25, 34)), ((4, 4), (1, 7)), ((5, 6), (5, 6))],
)
def test_agrees_with_a_float64_loop(size, new_size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3))
    found = run(lambda x: resize_align_corners(x, new_size), x.astype("float32"))
    assert relative_error(found, loop_reference(x, new_size)) <= 1e-5


def test_values_of_torch_interpolate_with_align_corners():
    """The documented behavior of `interpolate([[1, 2], [3, 4]], size=4, align_corners=True)`."""
    x = np.array([[1.0, 2.0], [3.0, 4.0]], "float32").reshape(1, 2, 2, 1)
    expected = [
        [1.0000, 1.3333, 1.6667, 2.0000],
        [1.6667, 2.0000, 2.3333, 2.6667],
        [2.3333, 2.6667, 3.0000, 3.3333],
        [3.0000, 3.3333, 3.6667, 4.0000],
    ]
    found = run(lambda x: resize_align_corners(x, (4, 4)), x)
    np.testing.assert_allclose(np.squeeze(found), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_integers_are_resized_in_float32(dtype):
    x = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 255, (1, 4, 5, 2))
    x = x.astype(dtype)
    found = run(lambda x: resize_align_corners(x, (7, 3)), x)
    np.testing.assert_allclose(found, loop_reference(x.astype("float64"), (7, 3)), atol=1e-3)
    assert found.dtype == "float32"


@pytest.mark.parametrize(
    "size", [(4.0, 4), (4,), (4, 4, 4), (-1, 4), (0, 4), (True, 4), "44", None]
)
def test_an_invalid_size_is_refused(size):
    with pytest.raises(ValueError, match="`size` must be an int.*Received: size="):
        resize_align_corners(np.ones((1, 2, 2, 1), "float32"), size)


@pytest.mark.parametrize("shape", [(2, 2, 1), (1, 0, 2, 1)])
def test_an_image_without_its_batch_or_pixels_is_refused(shape):
    with pytest.raises(ValueError, match="4 dimensions and at least one pixel.*2, 1"):
        resize_align_corners(np.ones(shape, "float32"), (4, 4))
