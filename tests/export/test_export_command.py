"""`keras-dyhead export` writes a file with the detections of the model, in any format."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from export.small_detectors import assert_same, by_hand, pictures, small_retinanet
from typer.testing import CliRunner

from keras_dyhead import export as exporters
from keras_dyhead.cli import app
from keras_dyhead.detectors import DetectionPreprocessor


@pytest.fixture(scope="module")
def model():
    return small_retinanet(preprocessor=DetectionPreprocessor((64, 96)))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export")
    model.save(path / "model.keras")
    return path


def export(folder, *arguments):
    arguments = ["export", folder / "model.keras", *arguments]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_file_detects_the_same_as_the_model(model, folder):
    out = folder / "new" / "saved_model"
    result = export(folder, "--out", out)
    assert result.exit_code == 0, result.output
    image = pictures(folder)[1][0]
    detect = tf.saved_model.load(str(out)).signatures["serving_default"]
    found = detect(images=tf.constant(image[None], "float32"))
    assert_same({key: np.asarray(found[key][0]) for key in found}, by_hand(model, image))


@pytest.mark.parametrize("file_format", ["saved_model", "onnx", "litert"])
def test_every_format_is_written_by_its_function(file_format, folder, monkeypatch):
    written = []
    monkeypatch.setattr(exporters, f"export_{file_format}", lambda *given: written.append(given))
    arguments = ["--format", file_format, "--image-size", 64, 96]
    result = export(folder, *arguments, "--out", folder / file_format)
    assert result.exit_code == 0, result.output
    ((model, out, image_size),) = written
    assert model.num_classes == 3 and out == folder / file_format and image_size == (64, 96)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "tflite", "--out", "x"], "'tflite'"),
        (["--out", "model.keras"], "model.keras already exists"),
    ],
)
def test_invalid_arguments_give_one_message(arguments, message, folder, monkeypatch):
    monkeypatch.chdir(folder)
    result = export(folder, *arguments)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.slow
def test_the_command_runs_on_tensorflow_whatever_backend_is_set(folder):
    out = folder / "elsewhere"
    command = [sys.executable, "-m", "keras_dyhead.cli", "export", folder / "model.keras"]
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    subprocess.run([*command, "--out", out], check=True, env=environment)
    assert (out / "saved_model.pb").is_file()
