"""The plot of the scale weights shows the gates and their ratios."""

import numpy as np
import pytest
from small_detector import picture

from keras_dyhead.visualization import plot_scale_weights
from keras_dyhead.visualization.scale_weights import draw_scale_weights

LEVELS = ["P3", "P4", "P5"]


def record(low, high):
    """The weights of one image. The middle level has both neighbors."""
    return [
        {"mid": 0.5, "high": 0.5},
        {"mid": 0.7, "low": low, "high": high},
        {"mid": 0.5, "low": 1},
    ]


RECORDS = [[record(0.5, 1.0)], [record(0.6, 1.0)], [record(0.9, 0.6)]]


def test_weights_are_dots_and_medians_are_bars():
    weights = draw_scale_weights(LEVELS, RECORDS).axes[0]
    dots = [c.get_offsets()[:, 1] for c in weights.collections[::2]]
    assert len(dots) == 7
    assert [sorted(d) for d in dots[2:5]] == [[0.5, 0.6, 0.9], [0.7] * 3, [0.6, 1.0, 1.0]]
    bars = [c.get_segments()[0][0][1] for c in weights.collections[1::2]]
    assert bars[2:5] == [0.6, 0.7, 1.0]
    assert [label.get_text() for label in weights.get_xticklabels()] == LEVELS


def test_ratios_are_finer_over_coarser_for_levels_with_both():
    """0.5, 0.6 and 1.5 around 1: two images to the left, one to the right."""
    ratios = draw_scale_weights(LEVELS, RECORDS).axes[1]
    assert [label.get_text() for label in ratios.get_yticklabels()] == ["P4"]
    (stairs,) = ratios.patches
    heights, edges, _ = stairs.get_data()
    counts, _ = np.histogram([0.5, 0.6, 1.5], edges)
    assert counts.sum() == 3
    np.testing.assert_allclose(heights, 0.85 * counts)
    assert ratios.texts[0].get_text() == "median\n0.60"


def test_two_levels_have_no_ratio():
    ends = [record(0.5, 1.0)[0], record(0.5, 1.0)[2]]
    ratios = draw_scale_weights(LEVELS[:2], [[ends]]).axes[1]
    assert "no level" in ratios.texts[0].get_text()


def test_every_block_has_a_row(small_model):
    figure = plot_scale_weights(small_model, (picture(64, side) for side in (64, 80)))
    assert [axis.get_ylabel() for axis in figure.axes[::2]] == ["block 1 of 2", "block 2 of 2"]
    assert len(figure.axes[0].collections[0].get_offsets()) == 2
    assert figure.get_suptitle().endswith("2 images")


def test_an_empty_list_of_images_is_refused(small_model):
    with pytest.raises(ValueError, match="at least one image"):
        plot_scale_weights(small_model, [])
