"""The sampling plot shows the points in pixels of the image."""

import numpy as np
import pytest

from keras_dyhead.visualization.receptive_field import points_of_block
from keras_dyhead.visualization.sampling import draw_sampling


def test_points_are_drawn_in_pixels_of_the_image(view):
    """The cell in row 1, column 2 of P4, whose cells are 25 x 25.06 pixels."""
    figure = draw_sampling(view, (60, 40), "P4", block=0)
    image, low, mid, high = figure.axes
    corner = image.patches[-1].get_xy()
    np.testing.assert_allclose(corner, (2 * view.strides[1][1], view.strides[1][0]))
    points = dict(points_of_block(view.blocks[0], "paper", 1, np.array([(1, 2)]), np.ones(1)))
    for axis, name, level in ((low, "low", 0), (mid, "mid", 1), (high, "high", 2)):
        expected = (points[name].positions + 0.5) * view.strides[level]
        drawn = axis.collections[0]
        order = np.argsort(points[name].weights)
        np.testing.assert_allclose(drawn.get_offsets(), expected[order][:, ::-1])
        areas = drawn.get_sizes()
        np.testing.assert_allclose(
            areas / areas[-1], np.sort(points[name].weights / max(points[name].weights))
        )
        assert f"{view.blocks[0].weights[1][name]:.2f}" in axis.get_title()
        assert axis.get_aspect() == 1
    center = np.mean(mid.collections[1].get_offsets(), axis=0)
    np.testing.assert_allclose(center, np.array([2.5, 1.5]) * view.strides[1][::-1])


def test_the_second_row_composes_all_blocks_up_to_the_chosen_block(view):
    figure = draw_sampling(view, (60, 40), "P4")
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles[0] == "block 2 of 2: cell of P4" and titles[4] == "through blocks 2 to 1"
    shares = [int(title.split("\n")[1].split("%")[0]) for title in titles[5:]]
    assert sum(shares) in (99, 100, 101)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((130, 10), "P4"), r"130 x 100 pixels. Received: point=\(130, 10\)"),
        (((10, 10), "P6"), r"one of \['P3', 'P4', 'P5'\]. Received: level='P6'"),
        ((5, "P4"), "pixels. Received: point=5"),
        ((("10", 10), "P4"), r"pixels. Received: point=\('10', 10\)"),
        (((10, 10), "P4", 2), "block=2"),
        (((10, 10), "P4", 1.0), "block=1.0"),
    ],
)
def test_missing_points_levels_and_blocks_are_refused(view, arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_sampling(view, *arguments)
