"""The command line answers at once, explains itself, and turns bad input into one message."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import keras_dyhead
from keras_dyhead.cli import app
from keras_dyhead.coco.shapes import draw_shapes
from keras_dyhead.version import __version__


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def complaint(*arguments):
    """The message of a command that must fail with exit code 2 and without a traceback."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    return " ".join(result.output.replace("│", " ").split())


@pytest.fixture
def data(tmp_path):
    path = draw_shapes(tmp_path / "data", 2, image_size=64, empty_fraction=0)
    return ["--images", tmp_path / "data" / "images", "--annotations", path]


def test_the_command_line_itself_does_not_import_tensorflow():
    code = f"""
import sys, types
package = sys.modules["keras_dyhead"] = types.ModuleType("keras_dyhead")  # not its __init__
package.__path__ = {list(keras_dyhead.__path__)}
import keras_dyhead.cli
print({{"tensorflow", "keras", "matplotlib"}}.intersection(sys.modules))
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert output.stdout == "set()\n", output.stderr


def test_version_is_the_packages():
    assert invoke("--version").output.strip() == f"keras-dyhead {__version__}"


@pytest.mark.parametrize("command", ["demo", "train"])
def test_help_shows_examples_and_every_option_with_a_text(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0 and f"keras-dyhead {command} --" in result.output
    assert all(text in result.output for text in ("Examples", "--out", "--resume", "--seed"))


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
    assert "`detector` must be one of ('atss', " in message and "'yolo'" in message
    assert not (tmp_path / "run").exists()
