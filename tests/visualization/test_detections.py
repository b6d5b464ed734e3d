"""Images with their boxes in a grid hold what they were given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.patches import Rectangle

from keras_dyhead.visualization import plot_detections, plot_examples

IMAGE = np.full((60, 80, 3), 200, "uint8")
TRUTH = {"boxes": np.array([[10.0, 10, 30, 40], [0, 0, 0, 0]]), "labels": np.array([1, -1])}
FOUND = {
    "boxes": np.array([[11.0, 12, 31, 39], [50, 5, 70, 25], [0, 0, 0, 0]]),
    "labels": np.array([1, 0, -1]),
    "confidence": np.array([0.9, 0.2, 0.0]),
}


def rectangles(axis):
    patches = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
    return [(*p.get_xy(), p.get_x() + p.get_width(), p.get_y() + p.get_height()) for p in patches]


def test_truth_is_left_and_confident_detections_are_right():
    left, right = plot_detections([IMAGE], [TRUTH], [FOUND], ["cat", "dog"]).axes
    assert rectangles(left) == [(10, 10, 30, 40)]
    assert rectangles(right) == [(11, 12, 31, 39)]
    assert [text.get_text() for text in left.texts + right.texts] == ["dog", "dog 0.90"]
    np.testing.assert_array_equal(left.images[0].get_array(), IMAGE)


def test_images_of_different_sizes_and_none_with_boxes_are_drawn():
    nothing = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0)}
    images = [IMAGE, IMAGE[:30], IMAGE[:, :20]]
    figure = plot_detections(images, [nothing] * 3, [nothing | {"confidence": np.zeros(0)}] * 3)
    assert [len(axis.images) for axis in figure.axes] == [1] * 6 + [0] * 2
    assert not any(axis.axison for axis in figure.axes)


def test_crowded_pictures_carry_no_texts():
    many = {"boxes": np.tile(TRUTH["boxes"][:1], (40, 1)), "labels": np.zeros(40)}
    left, _ = plot_detections([IMAGE], [many], [FOUND]).axes
    assert len(rectangles(left)) == 40 and not left.texts


def test_a_class_has_one_colour():
    left, right = plot_detections([IMAGE], [TRUTH], [FOUND]).axes
    assert left.patches[0].get_edgecolor() == right.patches[0].get_edgecolor()


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="Received lengths: 1, 1, 0"):
        plot_detections([IMAGE], [TRUTH], [])
    with pytest.raises(ValueError, match="images, targets must .* Received lengths: 1, 0"):
        plot_examples([IMAGE], [])


def test_examples_stand_in_a_grid_with_their_boxes():
    figure = plot_examples([IMAGE, IMAGE[:30], IMAGE], [TRUTH] * 3, ["cat", "dog"], columns=2)
    drawn = [axis for axis in figure.axes if axis.images]
    assert len(drawn) == 3 and len(figure.axes) == 4
    assert drawn[1].get_title() == "80 x 30 px, boxes: 1"
    assert all(rectangles(axis) == [(10, 10, 30, 40)] for axis in drawn)


def test_figures_stay_out_of_pyplot_and_save_without_a_display(tmp_path):
    plot_detections([IMAGE], [TRUTH], [FOUND]).savefig(tmp_path / "detections.png")
    assert (tmp_path / "detections.png").stat().st_size > 1000
    assert plt.get_fignums() == []
