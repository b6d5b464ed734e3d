"""Detections drawn into images, and names for the files of these."""

import numpy as np

from keras_dyhead.visualization import draw_detections, unique_stems


def test_drawn_boxes_lie_where_the_detections_are():
    image = np.zeros((60, 80, 3), "uint8")
    found = {
        "boxes": np.array([[20.0, 30, 50, 55], [0, 0, 10, 10], [60, 40, 70, 50]]),
        "labels": np.array([1, 0, -1]),
        "confidence": np.array([0.9, 0.2, 0.9]),
    }
    picture = np.asarray(draw_detections(image, found, ["a", "b"], score_threshold=0.3))
    assert picture[55, 20:51].any(-1).all() and picture[31:56, 50].any(-1).all()
    assert not picture[32:54, 22:49].any()  # only the frame is drawn
    assert not picture[:10, :10].any() and not picture[40:51, 60:71].any()


def test_files_called_alike_keep_names_of_their_own():
    assert unique_stems(["a/x.png", "b/x.jpg", "x_2.png"]) == ["x", "x_2", "x_2_2"]
