"""`keras-dyhead export` writes files that detect what the model detects."""

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from export.small_detectors import assert_same, by_hand, pictures, small_retinanet
from typer.testing import CliRunner

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


def run_saved_model(path, images):
    return tf.saved_model.load(str(path)).signatures["serving_default"](images=tf.constant(images))


def run_onnx(path, images):
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


def run_litert(path, images):
    return tf.lite.Interpreter(str(path)).get_signature_runner()(images=images)


@pytest.mark.parametrize(
    ("file_format", "run"),
    [("saved_model", run_saved_model), ("onnx", run_onnx), ("litert", run_litert)],
)
def test_every_format_detects_what_the_model_does(file_format, run, model, folder):
    out = folder / "new" / file_format
    result = export(folder, "--format", file_format, "--out", out)
    assert result.exit_code == 0, result.output
    image = pictures(folder)[1][0]
    found = run(out, image[None].astype("float32"))
    assert_same({key: np.asarray(found[key][0]) for key in found}, by_hand(model, image))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "tflite", "--out", "x"], "'tflite'"),
        (["--out", "model.keras"], "model.keras exists"),
    ],
)
def test_wrong_arguments_are_one_message(arguments, message, folder, monkeypatch):
    monkeypatch.chdir(folder)
    result = export(folder, *arguments)
    assert result.exit_code == 2
    assert message in result.output
