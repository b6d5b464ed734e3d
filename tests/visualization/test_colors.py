"""Classes have distinguishable colors."""

import matplotlib
import numpy as np

from keras_dyhead.visualization.colors import _oklab, class_color, text_color


def nearest(colors):
    """The smallest perceived distance between two colors."""
    seen = _oklab(np.array(colors))
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    return apart[np.triu_indices(len(seen), 1)].min()


def test_many_class_colors_are_more_distinct_than_a_common_map_of_twenty():
    colors = [np.array(class_color(label)) / 255 for label in range(80)]
    assert nearest(colors[:20]) > 2 * nearest(matplotlib.colormaps["tab20"].colors)
    assert nearest(colors[:10]) > 1.5 * nearest(matplotlib.colormaps["tab10"].colors)
    assert nearest(colors) > 0.07
    assert class_color(96) == class_color(0)


def test_oklab_matches_its_definition():
    """White, red and blue from the page that defines OKLab."""
    found = _oklab(np.array([[1.0, 1, 1], [1, 0, 0], [0, 0, 1]]))
    expected = [[1, 0, 0], [0.62796, 0.22486, 0.12585], [0.45201, -0.03246, -0.31153]]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_text_is_black_on_light_colors_and_white_on_dark_ones():
    assert text_color((255, 255, 0)) == "black" and text_color((0, 0, 160)) == "white"
