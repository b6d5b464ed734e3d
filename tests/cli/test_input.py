"""`keras-dyhead input` counts, times and draws the training images."""

import json

import numpy as np
import pytest
from cli.commands import complaint, output_of
from PIL import Image

from keras_dyhead.coco import SHAPES, draw_shapes


@pytest.fixture
def data(tmp_path):
    path = draw_shapes(tmp_path / "data", 5, image_size=64, empty_fraction=0.3, seed=1)
    return ["--images", tmp_path / "data" / "images", "--annotations", path]


def test_the_report_has_the_counts_of_the_file_and_the_pictures_requested(data, tmp_path):
    (tmp_path / "data" / "images" / "000002.jpg").write_text("no picture")
    out = tmp_path / "out"
    told = output_of(
        *("input", *data, "--batch-size", 2, "--image-size", 96, "--seconds", 0, "--pictures", 3),
        *("--out", out, "--on-error", "skip", "augmentation.scale=[0.5,0.5]"),
    )
    assert "000002.jpg" in told and "images per second" in told
    report = json.loads((out / "input.json").read_text())
    truth = json.loads(data[3].read_text())
    counts = {image["id"]: 0 for image in truth["images"] if image["id"] != 2}
    labels = [0] * len(SHAPES)
    for box in truth["annotations"]:
        if box["image_id"] != 2:
            counts[box["image_id"]] += 1
            labels[box["category_id"] - 1] += 1
    assert report["images"] == 4 and report["boxes"] == sum(counts.values())
    assert report["boxes_per_image"]["largest"] == max(counts.values())
    assert report["images_without_boxes"] == list(counts.values()).count(0)
    assert report["boxes_by_class"] == dict(zip(SHAPES, labels, strict=True))
    assert report["steps_per_epoch"] == 2 and len(report["problems"]) == 1
    (canvas,) = report["measured"]["canvases"]
    assert canvas["size"] == [96, 96]
    assert canvas["filled"] == pytest.approx(0.25, abs=0.02)  # zoomed to half of each side
    assert report["measured"]["images_per_second"] > 0
    with Image.open(out / "examples.png") as picture:
        assert picture.width > 3 * 300 and np.asarray(picture.convert("L")).std() > 10

    assert "Use --overwrite to replace it" in complaint("input", *data, "--out", out)
    (out / "input.json").unlink()
    assert "examples.png already exists" in complaint("input", *data, "--out", out)


def test_data_without_boxes_are_shown_too(data, tmp_path):
    content = json.loads(data[3].read_text())
    data[3].write_text(json.dumps(content | {"annotations": []}))
    out = tmp_path / "out"
    told = output_of(
        *("input", *data, "--batch-size", 2, "--image-size", 64, "--seconds", 0, "--pictures", 2),
        *("--out", out),
    )
    assert "5 images, 0 boxes" in told and (out / "examples.png").exists()
    complaints = complaint("input", *data, "--steps", 1, "--seconds", 0)
    assert "has no boxes to train on" in complaints


@pytest.mark.slow
def test_the_waiting_share_is_measured_with_the_model_of_the_settings(data, tmp_path):
    out = tmp_path / "out"
    told = output_of(
        *("input", *data, "--batch-size", 2, "--image-size", 64, "--seconds", 0, "--pictures", 0),
        *("--out", out, "--steps", 2, "num_blocks=0", "channels=16", "max_level=5"),
    )
    training = json.loads((out / "input.json").read_text())["training"]
    assert training["steps"] == 2 and training["step_seconds"] > 0
    assert 0 <= training["waiting_share"] < 1
    assert f"2 training steps spent {training['waiting_share']:.1%} of the time waiting" in told


def test_a_broken_image_is_one_message_if_files_are_not_verified(data, tmp_path):
    (tmp_path / "data" / "images" / "000002.jpg").write_text("no picture")
    told = complaint("input", *data, "--no-verify", "--seconds", 0, "--image-size", 64)
    assert told.startswith("Error: The image file cannot be decoded or differs in size from its")
    assert told.endswith("000002.jpg") and len(told) < 300


def test_settings_that_training_refuses_are_refused(data):
    assert "`augmentation` must only have" in complaint("input", *data, "augmentation.zoom=2")
    assert "`recipe` must be one of" in complaint("input", *data, "--recipe", "none")
