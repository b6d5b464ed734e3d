"""`keras-dyhead train` and `demo` turn bad input into one message before anything is written."""

import json

import pytest
from cli.commands import complaint

from keras_dyhead.coco import draw_shapes


@pytest.fixture
def data(tmp_path):
    path = draw_shapes(tmp_path / "data", 2, image_size=64, empty_fraction=0)
    return ["--images", tmp_path / "data" / "images", "--annotations", path]


def test_a_missing_folder_is_named(data, tmp_path):
    message = complaint("train", "--images", tmp_path / "no", *data[2:], "--out", tmp_path / "run")
    assert "--images" in message and "does not exist" in message


def test_annotations_that_are_no_coco_file_are_named(data, tmp_path):
    (tmp_path / "x.json").write_text("[]")
    message = complaint(
        "train", *data[:2], "--annotations", tmp_path / "x.json", "--out", tmp_path / "run"
    )
    assert "x.json must hold a JSON object" in message.replace("- ", "-")
    assert not (tmp_path / "run").exists()


def test_a_data_set_without_boxes_is_refused(data, tmp_path):
    content = json.loads(data[3].read_text()) | {"annotations": []}
    data[3].write_text(json.dumps(content))
    assert "no box to learn from" in complaint("train", *data, "--out", tmp_path / "run")


def test_a_category_that_training_does_not_know_is_named(data, tmp_path):
    content = json.loads(data[3].read_text())
    content["categories"].append({"id": 99, "name": "heptagon"})
    (tmp_path / "val.json").write_text(json.dumps(content))
    val = ["--val-images", data[1], "--val-annotations", tmp_path / "val.json"]
    assert "['heptagon']" in complaint("train", *data, *val, "--out", tmp_path / "run")


def test_a_folder_with_files_is_refused(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("mine")
    assert "is not empty" in complaint("train", *data, "--out", tmp_path / "run")
    assert "is not empty" in complaint("demo", "--out", tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["letter.txt"]


def test_an_unknown_backbone_is_named(data, tmp_path):
    message = complaint("train", *data, "--out", tmp_path / "run", "--backbone", tmp_path / "none")
    assert "`backbone` must be one of" in message


@pytest.mark.parametrize("command", ["train", "demo"])
def test_an_unknown_detector_is_named(command, data, tmp_path):
    arguments = data if command == "train" else []
    message = complaint(command, *arguments, "--out", tmp_path / "run", "--detector", "yolo")
    assert "`detector` must be one of ['atss', " in message and "'yolo'" in message
    assert not (tmp_path / "run").exists()
