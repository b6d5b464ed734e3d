"""Grids of images show the given boxes."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from keras_dyhead.visualization import plot_detections
from keras_dyhead.visualization.colors import class_color
from keras_dyhead.visualization.detections import plot_examples

IMAGE = np.full((60, 80, 3), 200, "uint8")
TRUTH = {"boxes": np.array([[10.0, 10, 30, 40], [0, 0, 0, 0]]), "labels": np.array([1, -1])}
FOUND = {
    "boxes": np.array([[11.0, 12, 31, 39], [50, 5, 70, 25], [0, 0, 0, 0]]),
    "labels": np.array([1, 0, -1]),
    "confidence": np.array([0.9, 0.2, 0.0]),
}


def frame(axis, label):
    """The xyxy outermost pixels of lines in a class's color that are two pixels wide."""
    drawn = np.asarray(axis.images[0].get_array())
    zoom = drawn.shape[1] / axis.images[0].get_extent()[1]
    same = (drawn == class_color(label)).all(-1)
    rows, columns = (np.flatnonzero(same.sum(a) > 0.8 * same.sum(a).max()) for a in (1, 0))
    return [round(float(x) / zoom) for x in (columns[0], rows[0], columns[-1], rows[-1])]


def test_ground_truth_is_left_and_confident_detections_are_right():
    left, right = plot_detections([IMAGE], [TRUTH], [FOUND], ["cat", "dog"]).axes
    assert left.get_title() == "ground truth: 1" and right.get_title() == "detections ≥ 0.3: 1"
    assert left.images[0].get_extent() == [0, 80, 60, 0]
    for axis, box in ((left, [10, 10, 30, 40]), (right, [11, 12, 31, 39])):
        assert frame(axis, 1) == box
    assert not (np.asarray(right.images[0].get_array()) == class_color(0)).all(-1).any()


def test_images_of_different_sizes_without_boxes_are_drawn():
    nothing = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0)}
    images = [IMAGE, IMAGE[:30], IMAGE[:, :20]]
    figure = plot_detections(images, [nothing] * 3, [nothing | {"confidence": np.zeros(0)}] * 3)
    assert [len(axis.images) for axis in figure.axes] == [1] * 6 + [0] * 2
    assert not any(axis.axison for axis in figure.axes)


def test_crowded_pictures_have_no_labels():
    many = {"boxes": np.tile(TRUTH["boxes"][:1], (40, 1)), "labels": np.zeros(40)}
    left, right = plot_detections([IMAGE], [many], [FOUND]).axes
    colored = [(np.asarray(a.images[0].get_array()) != 200).any(-1) for a in (left, right)]
    assert colored[1].sum() - 400 > colored[0].sum() > 0


def test_the_legend_shows_names_unchanged(tmp_path):
    names = ["_hidden", "$\\frac$ [/s]\n\x1b"]
    figure = plot_detections([IMAGE], [TRUTH], [FOUND], names, score_threshold=0.1)
    figure.savefig(tmp_path / "detections.png")
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == ["_hidden", "$\\frac$ [/s]\\n\\x1b"]
    colors = [patch.get_facecolor()[:3] for patch in legend.get_patches()]
    np.testing.assert_allclose(colors, np.array([class_color(0), class_color(1)]) / 255)


@pytest.mark.parametrize(("count", "length"), [(80, 9), (25, 200)])
def test_the_legend_of_many_or_long_names_fits_below_the_pictures(count, length):
    names = [f"{label} {'Wide name of a class' * 10}"[:length] for label in range(count)]
    many = {"boxes": np.tile(TRUTH["boxes"][:1], (count, 1)), "labels": np.arange(count)}
    figure = plot_detections([IMAGE], [many], [FOUND], names)
    figure.draw_without_rendering()
    (legend,), pictures = figure.legends, [axis.get_window_extent() for axis in figure.axes]
    assert len(legend.get_texts()) == count
    frame = legend.get_window_extent()
    assert frame.x0 >= 0 and frame.x1 <= figure.bbox.x1 and frame.y0 >= 0
    assert all(frame.y1 <= one.y0 and one.width > 300 for one in pictures)


def test_unusable_detections_are_refused():
    with pytest.raises(ValueError, match="must be dictionaries with a confidence.*'labels'.$"):
        plot_detections([IMAGE], [TRUTH], [TRUTH])
    wrong = FOUND | {"confidence": np.array([0.9, np.nan, 0.0])}
    with pytest.raises(ValueError, match="`confidence` must be numbers.*nan"):
        plot_detections([IMAGE], [TRUTH], [wrong])


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="Received lengths: 1, 1, 0"):
        plot_detections([IMAGE], [TRUTH], [])
    with pytest.raises(ValueError, match="images, targets must .* Received lengths: 1, 0"):
        plot_examples([IMAGE], [])


def test_examples_are_drawn_in_a_grid_with_their_boxes():
    figure = plot_examples([IMAGE, IMAGE[:30], *[IMAGE] * 3], [TRUTH] * 5, ["cat", "dog"])
    drawn = [axis for axis in figure.axes if axis.images]
    assert len(drawn) == 5 and len(figure.axes) == 8
    assert drawn[1].get_title() == "80 x 30 px, boxes: 1"
    assert all(frame(axis, 1) == [10, 10, 30, 40] for axis in (drawn[0], drawn[2]))


def test_figures_stay_out_of_pyplot_and_save_without_a_display(tmp_path):
    plot_detections([IMAGE], [TRUTH], [FOUND]).savefig(tmp_path / "detections.png")
    assert (tmp_path / "detections.png").stat().st_size > 1000
    assert plt.get_fignums() == []
