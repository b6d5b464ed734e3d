"""`keras-dyhead predict` writes its detections and reports bad input."""

import json
import shutil

import numpy as np
import pytest
from cli.commands import complaint, output_of
from PIL import Image
from small_detector import by_hand

from keras_dyhead import inference
from keras_dyhead.cli import app
from keras_dyhead.coco import SHAPES
from keras_dyhead.inference import TestTimeAugmentation, Tiles, read_rgb


def test_predict_writes_detections_and_pictures(folder, views, tmp_path):
    other = tmp_path / "wide.png"  # has the name of another file
    Image.open(folder / "photos" / "wide.png").save(other)
    out = tmp_path / "found"
    command = ("predict", folder / "photos", other, "--model", folder / "model.keras")
    output_of(*command, "--out", out, "--score-threshold", 0.3, "--tta", "--tile", 50)
    assert views == [TestTimeAugmentation(), Tiles(50, 0.2)]
    content = json.loads((out / "detections.json").read_text())
    names = [record["file"].split("/")[-1] for record in content["images"]]
    assert names == ["gray.png", "tall.jpg", "wide.png", "wide.png"] and content["errors"] == []
    assert content["tiles"] == {"size": 50, "overlap": 0.2} and content["tta"]["merge"] == "vote"
    pictures = ["detections.json", "gray.png", "tall.png", "wide.png", "wide_2.png"]
    assert sorted(path.name for path in out.iterdir()) == pictures
    for record, picture in zip(content["images"], pictures[1:], strict=True):
        image = read_rgb(record["file"])
        height, width = image.shape[:2]
        assert (record["height"], record["width"]) == (height, width)
        label = height % 5
        assert record["detections"] == [
            {"box": [2, 3, 30, 40], "label": 0, "name": SHAPES[0], "confidence": 0.9},
            {
                "box": [0, 0, width, height],
                "label": label,
                "name": SHAPES[label],
                "confidence": 0.8,
            },
        ]
        drawn = np.asarray(Image.open(out / picture))
        zoom = round(640 / max(image.shape))
        assert drawn.shape == (height * zoom, width * zoom, 3)


def test_predict_prints_nothing_but_json_without_a_folder(small_model, eager, folder, capsys):
    image = folder / "photos" / "tall.jpg"
    command = ["predict", image, "--model", folder / "model.keras", "--score-threshold", 0]
    app([str(argument) for argument in command], standalone_mode=False)
    (record,) = json.loads(capsys.readouterr().out)["images"]
    expected = by_hand(small_model, read_rgb(image))
    assert record["file"].endswith("tall.jpg")
    assert len(record["detections"]) == len(expected["labels"]) > 1
    for found, box, label in zip(
        record["detections"], expected["boxes"], expected["labels"], strict=True
    ):
        assert found["box"] == pytest.approx(box, abs=0.02) and found["label"] == label


def test_broken_images_are_named_and_refused_or_skipped(folder, views, tmp_path):
    whole = (folder / "photos" / "tall.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "text.png").write_text("no image")
    broken = [tmp_path / name for name in ("cut.jpg", "text.png", "none.png")]
    model = ["--model", folder / "model.keras"]
    arguments = ["predict", *broken, folder / "photos" / "gray.png", *model, "--out"]
    message = complaint(*arguments, tmp_path / "out")
    assert all(f"{name} is not a readable" in message for name in ("cut.jpg", "text.png"))
    assert "There is no file" in message and not (tmp_path / "out").exists()
    output_of(*arguments, tmp_path / "out", "--on-error", "skip")
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [r["file"].split("/")[-1] for r in content["images"]] == ["gray.png"]
    assert [error["file"] for error in content["errors"]] == list(map(str, broken))
    told = complaint("predict", *broken, *model, "--on-error", "skip")
    assert "no readable image among" in told


def test_a_picture_never_replaces_an_image(folder, views, tmp_path):
    """Pictures have the names of the images, so `--out` must not be their folder."""
    photos = shutil.copytree(folder / "photos", tmp_path / "photos")
    before = {path: path.read_bytes() for path in photos.iterdir()}
    command = ("predict", photos / "wide.png", photos / "tall.jpg", "--model")
    told = complaint(*command, folder / "model.keras", "--out", tmp_path / "x" / ".." / "photos")
    assert "would replace an input" in told and "wide.png" in told and not views
    assert {path: path.read_bytes() for path in photos.iterdir()} == before
    (photos / "tall.png").write_bytes(b"no image")
    command = ("predict", photos / "tall.jpg", photos / "tall.png", "--on-error", "skip", "--model")
    told = complaint(*command, folder / "model.keras", "--out", photos)
    assert "would replace an input" in told and (photos / "tall.png").read_bytes() == b"no image"


@pytest.mark.parametrize("name", ["tall.png", "detections.json"])
def test_existing_files_are_replaced_on_request_only(folder, views, tmp_path, name):
    shutil.copy(folder / "photos" / "tall.jpg", tmp_path)
    (tmp_path / name).write_text("mine")
    command = ("predict", tmp_path / "tall.jpg", "--model", folder / "model.keras")
    told = complaint(*command, "--out", tmp_path)
    assert f"{name} already exists. Use --overwrite" in told and not views
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.iterdir())) == 2
    output_of(*command, "--out", tmp_path, "--overwrite")
    assert (tmp_path / name).read_bytes() != b"mine"


def test_predict_limits_the_number_of_detections(small_model, folder, views, monkeypatch):
    monkeypatch.setattr(small_model, "decoder", small_model.decoder)  # restored afterwards
    command = ("predict", folder / "photos" / "tall.jpg", "--model", folder / "model.keras")
    output_of(*command, "--max-detections", 345)
    assert small_model.decoder.max_detections == 345


def test_without_detections_the_best_confidence_is_printed(folder, views, monkeypatch, tmp_path):
    command = ("predict", folder / "photos", "--model", folder / "model.keras", "--out", tmp_path)
    told = output_of(*command, "--score-threshold", 0.95)
    assert "no detection with a confidence of at least 0.95: the best is 0.900, circle" in told
    nothing = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int), "confidence": np.zeros(0)}
    monkeypatch.setattr(inference, "image_detector", lambda *_: lambda image: nothing)
    assert "at least 0.3: the model found nothing" in output_of(*command, "--overwrite")


def test_a_folder_that_cannot_be_made_is_named_before_detection(folder, views, tmp_path):
    (tmp_path / "file").write_text("mine")
    command = ("predict", folder / "photos", "--model", folder / "model.keras", "--out")
    assert "is a file" in complaint(*command, tmp_path / "file")
    assert "file/found" in complaint(*command, tmp_path / "file" / "found")
    assert views == []
