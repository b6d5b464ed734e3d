"""Detections drawn into images, and unique file names."""

import numpy as np
import pytest

from keras_dyhead.visualization import draw_detections
from keras_dyhead.visualization.pictures import unique_stems


def box_of(mask):
    """The xyxy bounding box of the true pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(x) for x in (columns[0], rows[0], columns[-1], rows[-1])]


def test_boxes_are_drawn_at_the_detections_in_an_enlarged_picture():
    image = np.zeros((60, 80, 3), "uint8")
    found = {
        "boxes": np.array([[20.0, 30, 50, 55], [0, 0, 10, 10], [60, 40, 70, 50]]),
        "labels": np.array([1, 0, -1]),
        "confidence": np.array([0.9, 0.2, 0.9]),
    }
    picture = np.asarray(draw_detections(image, found, ["a", "b"], labeled=False))
    assert picture.shape == (480, 640, 3)
    assert box_of(picture.any(-1)) == [160, 240, 400, 440]
    assert not picture[243:437, 163:397].any()  # only the frame is drawn
    large = np.zeros((700, 900, 3), "uint8")
    assert np.asarray(draw_detections(large, found)).shape == large.shape


@pytest.mark.parametrize("corner", [(0, 0), (70, 0), (0, 50), (70, 50), (30, 25)])
def test_labels_stay_inside_the_picture_and_off_the_objects(corner):
    """In every corner, with the closest possible neighbor on each side."""
    x, y = corner
    boxes = np.array([[x, y, x + 10, y + 10], [40, 0, 45, 60]], "float32")
    found = {"boxes": boxes, "labels": np.array([0, 1])}
    image = np.zeros((60, 80, 3), "uint8")
    plain = np.asarray(draw_detections(image, found, ["first", "second"], labeled=False))
    picture = np.asarray(draw_detections(image, found, ["first", "second"]))
    added = (picture != plain).any(-1)
    assert added.sum() > 1500  # two whole labels
    for left, upper, right, lower in (8 * boxes).astype(int):
        assert not added[upper + 3 : lower - 2, left + 3 : right - 2].any()
    alone = {"boxes": boxes[:1], "labels": np.array([0])}
    elsewhere = np.asarray(draw_detections(image, alone, ["first"]))
    text = (elsewhere != np.asarray(draw_detections(image, alone, labeled=False))).any(-1)
    assert 30 < box_of(text)[2] - box_of(text)[0] < 80 and 12 < text.any(1).sum() < 30


def test_labels_that_would_hide_the_picture_are_left_out():
    def drawn(count, labeled=True):
        boxes = np.tile([[8.0, 8, 40, 40]], (count, 1))
        found = {"boxes": boxes, "labels": [0] * count}
        return np.asarray(
            draw_detections(np.zeros((64, 64, 3), "uint8"), found, ["x"] * 9, 0, labeled)
        )

    assert (drawn(20) != drawn(20, labeled=False)).any()
    np.testing.assert_array_equal(drawn(400), drawn(400, labeled=False))


def test_odd_names_and_an_object_as_large_as_the_picture_are_drawn():
    found = {"boxes": np.array([[0.0, 0, 80, 60]]), "labels": np.array([0])}
    for name in ("", "a\nb", "\udcff", "名前", "x" * 300):
        assert np.asarray(draw_detections(np.zeros((60, 80, 3)), found, [name])).any()


@pytest.mark.parametrize("shape", [(60, 80), (60, 80, 1), (60, 80, 4)])
def test_gray_and_transparent_images_are_drawn_in_color(shape):
    found = {"boxes": [[20, 30, 50, 55]], "labels": [0]}
    picture = np.asarray(draw_detections(np.zeros(shape, "uint8"), found, labeled=False))
    plain = draw_detections(np.zeros((60, 80, 3), "uint8"), found, labeled=False)
    np.testing.assert_array_equal(picture, np.asarray(plain))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": [[50, 30, 20, 55]]}, r"left, top, right, bottom.*\[50.0, 30.0, 20.0, 55.0\]"),
        ({"boxes": [[20, np.nan, 50, 55]]}, "left, top, right, bottom.*nan"),
        ({"labels": [2]}, "2 names. Received: label 2"),
        ({"labels": [0, 1]}, "as many boxes as labels and confidences. Received: 1, 2 and 2"),
        ({"confidence": []}, "Received: 1, 1 and 0"),
        ({"confidence": [np.nan]}, "`confidence` must be numbers.*nan"),
        ({"image": np.full((60, 80, 3), 0.5)}, "from 0 to 1 by 255"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change, message):
    scene = {"boxes": [[20, 30, 50, 55]], "labels": [0], "image": np.zeros((60, 80, 3))} | change
    with pytest.raises(ValueError, match=message):
        draw_detections(scene.pop("image"), scene, ["a", "b"])


def test_files_with_equal_names_get_unique_stems():
    assert unique_stems(["a/x.png", "b/x.jpg", "x_2.png"]) == ["x", "x_2", "x_2_2"]
