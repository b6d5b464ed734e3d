"""Anchors and points against loops over levels, rows, columns and shapes."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.detectors.locations import AnchorGenerator, grid_points

SIZES = [(5, 7), (3, 4), (2, 2), (1, 1)]


def loop(generator, level_sizes, min_level):
    anchors = []
    for level, (height, width) in enumerate(level_sizes, start=min_level):
        for y in range(height):
            for x in range(width):
                for step in range(generator.octaves):
                    for ratio in generator.ratios:
                        area = (generator.scale * 2**level * 2 ** (step / generator.octaves)) ** 2
                        w, h = (area / ratio) ** 0.5, (area * ratio) ** 0.5
                        cx, cy = (2**level * (i + generator.offset) for i in (x, y))
                        anchors.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    return np.array(anchors)


@pytest.mark.parametrize(
    "generator",
    [
        AnchorGenerator(),
        AnchorGenerator(scale=8.0, octaves=1, ratios=(1.0,), offset=0.5),
        AnchorGenerator(scale=1.5, octaves=2, ratios=[0.3, 1.0]),
    ],
)
@pytest.mark.parametrize("min_level", [2, 3])
def test_anchors_are_ordered_by_level_row_column_size_ratio(generator, min_level):
    expected = loop(generator, SIZES, min_level)
    assert len(expected) == generator.per_cell * sum(h * w for h, w in SIZES)
    np.testing.assert_allclose(generator(SIZES, min_level), expected, rtol=1e-6, atol=1e-4)


def test_published_retinanet_sizes():
    """The table of dyhead_r50_retina_fpn_1x: sizes 32, 40.3, 50.8 at P3 up to 812.7 at P7."""
    for stride, largest in [(8, 50.79683366298238), (128, 812.7493386077181)]:
        cell = AnchorGenerator().cell(stride)
        squares = cell[1::3]
        np.testing.assert_allclose(squares[-1][2:] - squares[-1][:2], largest, rtol=1e-6)
    first = [-22.627417, -11.313708, 22.627417, 11.313708]
    np.testing.assert_allclose(AnchorGenerator().cell(8)[0], first, rtol=1e-6)


def test_openmmlab_orders_by_ratio_then_size():
    """The base anchors of mmdet's RetinaNet at stride 8, up to the first of the second ratio."""
    half_width, half_height = [22.627417, 28.508759, 35.918785, 16.0], [11.313708, 14.254379]
    cell = AnchorGenerator(ratios_first=True).cell(8)
    np.testing.assert_allclose(cell[:4, 2], half_width, rtol=1e-6)
    np.testing.assert_allclose(cell[:2, 3], half_height, rtol=1e-6)
    default = AnchorGenerator().cell(8)
    assert sorted(map(tuple, cell)) == sorted(map(tuple, default)) and (cell != default).any()


@pytest.mark.parametrize(
    "generator", [AnchorGenerator(octaves=1), functools.partial(grid_points, offset=0.5)]
)
def test_dynamic_sizes_give_the_same_locations(generator):
    traced = tf.function(
        lambda sizes: generator([(sizes[i, 0], sizes[i, 1]) for i in range(4)], 3)
    ).get_concrete_function(tf.TensorSpec((4, 2), tf.int32))
    np.testing.assert_array_equal(traced(tf.constant(SIZES)), generator(SIZES, 3))


@pytest.mark.parametrize("wrong", [{"scale": 0}, {"octaves": 0}, {"ratios": ()}, {"ratios": (-1,)}])
def test_invalid_arguments_are_in_the_message(wrong):
    with pytest.raises(ValueError, match="Received: AnchorGenerator"):
        AnchorGenerator(**wrong)


@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("min_level", [2, 3])
def test_points_are_ordered_by_level_row_column_and_have_their_stride(offset, min_level):
    expected = [
        (2**level * (x + offset), 2**level * (y + offset), 2**level)
        for level, (height, width) in enumerate(SIZES, start=min_level)
        for y in range(height)
        for x in range(width)
    ]
    np.testing.assert_array_equal(grid_points(SIZES, min_level, offset), expected)
