"""Options that several commands share are checked in one place."""

import os

import keras
import pytest
from cli.commands import complaint


def test_a_file_that_is_not_a_detector_is_named(folder, tmp_path):
    (tmp_path / "x.keras").write_bytes(b"no zip")
    command = ("predict", folder / "photos", "--model")
    told = complaint(*command, tmp_path / "x.keras")
    assert "x.keras is not a model that Keras can load" in told
    keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]).save(tmp_path / "dense.keras")
    told = complaint(*command, tmp_path / "dense.keras")
    assert "dense.keras must contain a keras_dyhead detector. Received: a Sequential" in told


@pytest.mark.parametrize("words", [("predict",), ("visualize", "--out", "report", "--images")])
def test_a_folder_without_images_is_named(words, folder, views, tmp_path):
    told = complaint(words[0], "--model", folder / "model.keras", *words[1:], tmp_path)
    assert f"There is no JPEG or PNG file in {tmp_path}." in told


WRITTEN = {
    **{"input": "input.json", "predict": "detections.json", "evaluate": "confusion.png"},
    **{"visualize": "report.html", "pseudo-label": "", "convert": "", "export": ""},
}


@pytest.mark.parametrize("name", WRITTEN)
def test_places_that_cannot_be_written_are_named_first(name, folder, views, tmp_path, monkeypatch):
    model, photos = ("--model", folder / "model.keras"), ("--images", folder / "photos")
    data = ("--images", folder / "data" / "images", "--annotations", folder / "shapes.json")
    command = {
        "input": (*data, "--seconds", 0, "--out"),
        "predict": (folder / "photos", *model, "--out"),
        "evaluate": (*model, *data, "--plots"),
        "visualize": (*model, *photos, "--out"),
        "pseudo-label": (*model, *photos, "--out"),
        "convert": ("dyhead_r50_atss_fpn_1x",),
        "export": (folder / "model.keras", "--format", "onnx", "--out"),
    }
    command = name, *command[name]
    taken = tmp_path / "taken.keras"
    (taken / WRITTEN[name]).mkdir(parents=True)
    assert str(taken) in complaint(*command, taken).replace(" ", "")
    (tmp_path / "file").write_text("mine")
    told = complaint(*command, tmp_path / "file" / "new.keras")
    assert f"cannot be written: {tmp_path / 'file'} is not a writable folder" in told
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    told = complaint(*command, tmp_path / "new.keras")
    assert f"cannot be written: {tmp_path} is not a writable folder" in told
    assert not views and not (tmp_path / "new.keras").exists()
