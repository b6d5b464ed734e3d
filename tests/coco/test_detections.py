"""Detections as arrays, records and files."""

import json

import numpy as np
import pytest
from coco.scenes import generated_coco

from keras_dyhead.coco import detection_array, write_detections
from keras_dyhead.coco.detections import DETECTION, detection_records, xywh_boxes, xyxy_boxes


def test_a_detection_takes_56_bytes_and_survives_a_file(tmp_path):
    _, detections = generated_coco(30, 4, 400)  # more than one part
    assert detections.nbytes == 56 * 12_000
    path = tmp_path / "new" / "results.json"
    write_detections(detections, path)
    records = json.loads(path.read_text())
    assert records == detection_records(detections)
    np.testing.assert_array_equal(detection_array(records), detections)
    write_detections(detections[:0], path)
    assert json.loads(path.read_text()) == []


GOOD = {"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    "wrong",
    [
        {"score": None},
        {"bbox": [1, 2, 3]},
        {"bbox": ["a", 2, 3, 4]},
        {"image_id": 1.5},
        {"category_id": None},
        {"bbox": [1, 2, float("nan"), 4]},
        {"score": float("inf")},
        {"bbox": [1, 2, -3, 4]},
    ],
)
def test_an_entry_that_is_not_a_detection_is_shown(wrong):
    with pytest.raises(ValueError, match=r"Detections must have.*Received: \{'image_id'"):
        detection_array([GOOD, GOOD | wrong])


def test_arrays_are_checked_and_text_is_read():
    array = detection_array([GOOD, GOOD | {"image_id": "1", "score": "0.5"}])
    assert array.dtype == DETECTION and (array == array[0]).all()
    text = detection_array([GOOD | {"image_id": "1"}, GOOD | {"image_id": 1.0}])
    assert text["image_id"].tolist() == ["1", "1"]
    array["bbox"][1, 2] = np.nan
    with pytest.raises(ValueError, match="finite boxes and scores.*nan"):
        detection_array(array)


@pytest.mark.parametrize("wrong", [None, 3, "results.json", {"image_id": 1}])
def test_detections_must_be_a_list(wrong):
    with pytest.raises(ValueError, match="`results` must be a list of detections. Received"):
        detection_array(wrong)


def test_boxes_are_converted_there_and_back():
    boxes = np.array([[[1.0, 2, 11, 5], [0, 0, 4, 4]]])
    assert xywh_boxes(boxes).tolist() == [[[1, 2, 10, 3], [0, 0, 4, 4]]]
    np.testing.assert_array_equal(xyxy_boxes(xywh_boxes(boxes)), boxes)
