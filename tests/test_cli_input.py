"""`keras-dyhead input`: what a training would be given, counted, timed and drawn."""

import json
import time

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from typer.testing import CliRunner

from keras_dyhead.cli import app
from keras_dyhead.coco.shapes import SHAPES, draw_shapes
from keras_dyhead.coco.throughput import measure_throughput
from keras_dyhead.training.waiting import measure_waiting
from keras_dyhead.visualization.examples import plot_examples


def invoke(*arguments):
    return CliRunner().invoke(app, ["input", *(str(argument) for argument in arguments)])


@pytest.fixture
def data(tmp_path):
    path = draw_shapes(tmp_path / "data", 5, image_size=64, empty_fraction=0.3, seed=1)
    return ["--images", tmp_path / "data" / "images", "--annotations", path]


def test_the_report_counts_what_the_file_holds_and_draws_what_is_asked_for(data, tmp_path):
    (tmp_path / "data" / "images" / "000002.jpg").write_text("no picture")
    out = tmp_path / "out"
    result = invoke(
        *(*data, "--batch-size", 2, "--image-size", 96, "--seconds", 0, "--pictures", 3),
        *("--out", out, "--on-error", "skip", "augmentation.scale=[0.5,0.5]"),
    )
    assert result.exit_code == 0, result.output
    assert "000002.jpg" in result.output and "images a second" in result.output
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

    again = invoke(*data, "--out", out)
    assert again.exit_code == 2 and "--overwrite" in again.output


def test_waiting_is_the_time_between_a_loss_and_the_next_batch():
    """Batches are made in 60 ms each while a step takes 20: the rest of the time is waiting."""
    times = {"batch": 0.06, "step": 0.02}

    class Model:
        def train_on_batch(self, images, targets):
            time.sleep(times["step"])

    def batches():
        while True:
            time.sleep(times["batch"])
            yield np.zeros((2, 4, 4, 3), "float32"), {"labels": np.zeros((2, 1), "float32")}

    signature = (tf.TensorSpec((2, 4, 4, 3)), {"labels": tf.TensorSpec((2, 1))})
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(1)
    passed = []
    starved = measure_waiting(Model(), dataset, 10, passed.append)
    assert starved["steps"] == 10 and passed[-1] == 1.0
    assert starved["step_seconds"] >= 0.02 and starved["waiting_seconds"] > 0.02
    assert 0.3 < starved["waiting_share"] < 0.8
    times.update(batch=0.001, step=0.1)
    assert measure_waiting(Model(), dataset, 10)["waiting_share"] < 0.1
    with pytest.raises(ValueError, match="positive. Received: 0"):
        measure_waiting(Model(), dataset, 0)


@pytest.mark.slow
def test_the_share_of_waiting_is_that_of_the_model_named(data, tmp_path):
    out = tmp_path / "out"
    result = invoke(
        *(*data, "--batch-size", 2, "--image-size", 64, "--seconds", 0, "--pictures", 0),
        *("--out", out, "--steps", 2, "num_blocks=0", "channels=16", "max_level=5"),
    )
    assert result.exit_code == 0, result.output
    training = json.loads((out / "input.json").read_text())["training"]
    assert training["steps"] == 2 and training["step_seconds"] > 0
    assert 0 <= training["waiting_share"] < 1
    assert f"{training['waiting_share']:.1%} of the time of 2 steps" in result.output


def test_settings_that_training_refuses_are_refused(data):
    assert invoke(*data, "augmentation.zoom=2").exit_code == 2
    result = invoke(*data, "--recipe", "none")
    assert result.exit_code == 2 and "`recipe` must be one of" in result.output


def test_throughput_is_that_of_a_pipeline_of_known_pace():
    """Batches of two images come 20 ms apart: 100 images a second at most."""

    def batches():
        for number in range(10):
            time.sleep(0.02)
            images = np.zeros((2, 32, 64, 3) if number % 2 else (2, 64, 32, 3), "float32")
            images[:, :16, :32] = 1
            yield images, {"labels": np.array([[0, 1, -1], [3, -1, -1]], "float32")}

    signature = (
        tf.TensorSpec((2, None, None, 3)),
        {"labels": tf.TensorSpec((2, 3))},
    )
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    passed = []
    measured = measure_throughput(dataset, 0.5, passed.append)
    assert measured["images_per_second"] < 105
    rate = measured["images"] / measured["seconds"]
    assert measured["images_per_second"] == pytest.approx(rate, rel=0.02)
    assert measured["seconds"] >= 0.5
    assert measured["cpu_seconds_per_image"] < 0.02
    assert measured["boxes_per_image"] == 1.5
    assert {tuple(canvas["size"]) for canvas in measured["canvases"]} == {(32, 64), (64, 32)}
    assert {canvas["filled"] for canvas in measured["canvases"]} == {0.25}
    assert passed == sorted(passed) and passed[-1] == 1.0


def test_pictures_without_targets_are_refused():
    with pytest.raises(ValueError, match="same length.*Received lengths: 1, 0"):
        plot_examples([np.zeros((4, 4, 3))], [])
