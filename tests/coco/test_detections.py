"""Detections as an array, as records and as a file."""

import json

import numpy as np
import pytest
from coco.scenes import generated_coco

from keras_dyhead.coco import detection_array, write_detections
from keras_dyhead.coco.detections import detection_records, xywh_boxes, xyxy_boxes


def test_a_detection_takes_56_bytes_and_survives_the_way_through_a_file(tmp_path):
    _, detections = generated_coco(30, 4, 400)  # more than one part
    assert detections.nbytes == 56 * 12_000
    path = tmp_path / "new" / "results.json"
    write_detections(detections, path)
    records = json.loads(path.read_text())
    assert records == detection_records(detections)
    np.testing.assert_array_equal(detection_array(records), detections)
    write_detections(detections[:0], path)
    assert json.loads(path.read_text()) == []


def test_an_entry_that_is_no_detection_is_shown():
    for record in (
        {"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4]},
        {"image_id": 1, "category_id": 2, "bbox": [1, 2, 3], "score": 0.5},
        {"image_id": "one", "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5},
    ):
        with pytest.raises(ValueError, match=r"image_id and category_id.*Received: \{'image_id'"):
            detection_array([record])


def test_boxes_are_converted_there_and_back():
    boxes = np.array([[[1.0, 2, 11, 5], [0, 0, 4, 4]]])
    assert xywh_boxes(boxes).tolist() == [[[1, 2, 10, 3], [0, 0, 4, 4]]]
    np.testing.assert_array_equal(xyxy_boxes(xywh_boxes(boxes)), boxes)
