"""Centerness at places where it is known."""

import numpy as np

from keras_dyhead.detectors.centerness import centerness_of


def test_centerness_is_one_in_the_middle_and_zero_from_the_border_on():
    boxes = np.array([[0, 0, 8, 4]] * 4, "float32")
    points = np.array([[4, 2], [2, 2], [8, 2], [-3, 2]], "float32")
    np.testing.assert_allclose(centerness_of(points, boxes), [1, (2 / 6) ** 0.5, 0, 0], rtol=1e-6)
