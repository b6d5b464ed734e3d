"""Points against loops over levels, rows and columns."""

import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.detectors.points import PointGenerator

SIZES = [(5, 7), (3, 4), (2, 2), (1, 1)]


@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("min_level", [2, 3])
def test_points_are_ordered_by_level_row_column_and_know_their_stride(offset, min_level):
    expected = [
        (2**level * (x + offset), 2**level * (y + offset), 2**level)
        for level, (height, width) in enumerate(SIZES, start=min_level)
        for y in range(height)
        for x in range(width)
    ]
    np.testing.assert_array_equal(PointGenerator(offset)(SIZES, min_level), expected)


def test_sizes_unknown_to_the_graph_give_the_same_points():
    generator = PointGenerator()
    traced = tf.function(
        lambda sizes: generator([(sizes[i, 0], sizes[i, 1]) for i in range(4)], 3)
    ).get_concrete_function(tf.TensorSpec((4, 2), tf.int32))
    np.testing.assert_array_equal(traced(tf.constant(SIZES)), generator(SIZES, 3))
