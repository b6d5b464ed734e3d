"""A training writes all its results, survives SIGKILL, and refuses what it must not touch."""

import csv
import dataclasses
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from keras_dyhead.coco import METRIC_NAMES, CocoAnnotations, draw_shapes, evaluate_coco
from keras_dyhead.detectors import DETECTORS, FCOS, DetectionPreprocessor, RepPoints
from keras_dyhead.inference import detect_images
from keras_dyhead.training import (
    EpochCheckpoint,
    Training,
    TrainingSettings,
    build_detector,
    check_serving,
    demo_training,
)
from keras_dyhead.training.results import RESULTS

TINY = {"batch_size": 2, "image_size": 64, "channels": 16, "max_level": 5}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    draw_shapes(folder, 6, image_size=64, empty_fraction=0)
    return {"images": folder / "images", "annotations": folder / "instances.json"}


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished training and what it returned."""
    out = tmp_path_factory.mktemp("runs") / "new"
    training = Training(TrainingSettings(**data, **TINY, num_blocks=1, epochs=2), out)
    return training, training.run(verbose=0)


def linear_model():
    """A model whose training depends on the optimizer's state and step count."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 20)
    model.compile(keras.optimizers.AdamW(schedule), "mse")
    return model


def fit(model, folder, epochs):
    checkpoint = EpochCheckpoint(folder)
    checkpoint.restore(model)
    x = np.linspace(-1, 1, 24, dtype="float32").reshape(8, 3)
    start = len(checkpoint.records)
    model.fit(x, x[:, :1], 2, epochs, 0, [checkpoint], initial_epoch=start, shuffle=False)
    return checkpoint.records


def test_training_in_two_goes_equals_training_in_one(tmp_path):
    whole, first, second = linear_model(), linear_model(), linear_model()
    records = fit(whole, tmp_path / "whole", epochs=5)
    fit(first, tmp_path / "parts", epochs=3)
    resumed = fit(second, tmp_path / "parts", epochs=5)
    for a, b in zip(whole.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [r["loss"] for r in resumed] == [r["loss"] for r in records]
    assert [r["epoch"] for r in resumed] == [1, 2, 3, 4, 5]


def test_a_checkpoint_that_was_being_written_is_ignored(tmp_path):
    records = fit(linear_model(), tmp_path, epochs=2)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "state.npz").write_bytes(b"half a file")
    names = sorted(path.name for path in tmp_path.glob("epoch-*"))
    assert names == ["epoch-00001", "epoch-00002"]
    assert fit(linear_model(), tmp_path, epochs=3)[:2] == records


def test_an_epoch_without_a_finite_loss_is_not_saved(tmp_path):
    checkpoint = EpochCheckpoint(tmp_path)
    checkpoint.set_model(linear_model())
    checkpoint.on_epoch_begin(0)
    with pytest.raises(FloatingPointError, match="epoch 1"):
        checkpoint.on_epoch_end(0, {"loss": float("nan")})
    assert not list(tmp_path.iterdir()) and not checkpoint.records


def test_settings_follow_the_data(data):
    annotations = CocoAnnotations(data["annotations"])
    boxes = [a["bbox"] for a in json.loads(data["annotations"].read_text())["annotations"]]
    smallest_tenth = np.quantile([(w * h) ** 0.5 * 256 / 64 for _, _, w, h in boxes], 0.1)
    scale = np.clip(smallest_tenth / 8, 1, 4)
    for detector, expected in (("retinanet", scale), ("faster-rcnn", scale), ("atss", 2 * scale)):
        settings = TrainingSettings(**data, detector=detector, batch_size=4, image_size=256)
        settings = settings.resolve(annotations)
        assert settings.epochs == 300  # two steps each
        assert settings.anchor_scale == round(float(expected), 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 20},
        {"epochs": 0},
        {"val_images": "only"},
        {"learning_rate": -1.0},
        {"detector": "yolo"},
    ],
)
def test_impossible_settings_are_refused(data, wrong):
    with pytest.raises(ValueError, match="Received"):
        TrainingSettings(**data, **wrong)


@pytest.mark.parametrize(("name", "detector"), DETECTORS.items())
@pytest.mark.parametrize("num_blocks", [0, 2])
def test_the_detector_is_the_one_asked_for(data, name, detector, num_blocks):
    settings = TrainingSettings(**data, **TINY, detector=name, num_blocks=num_blocks)
    settings = settings.resolve(CocoAnnotations(data["annotations"]))
    preprocessor = DetectionPreprocessor(image_size=(64, 64))
    model = build_detector(settings, ["a", "b"], steps=10, preprocessor=preprocessor)
    assert type(model) is detector and model.class_names == ("a", "b") and model.num_classes == 2
    assert model.pyramid.max_level == 5 and getattr(model.neck, "num_blocks", 0) == num_blocks
    rates = model.optimizer.rates  # `offset_rate`
    slow = {w.path for w in model.trainable_weights if any(re.search(r, w.path) for r in rates)}
    fields = {w.path for w in model.weights if re.search(r"dyhead/.*/offset_conv/", w.path)}
    assert slow == fields and len(slow) == 2 * num_blocks and set(rates.values()) == {0.1}
    assert detector in (FCOS, RepPoints) or model.anchors.scale == settings.anchor_scale


def test_all_results_are_written(finished):
    training, metrics = finished
    assert all((training.out / name).exists() for name in RESULTS)
    assert json.loads((training.out / "metrics.json").read_text()) == json.loads(
        json.dumps(metrics)
    )
    history = json.loads((training.out / "history.json").read_text())
    with open(training.out / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == history["loss"] and len(rows) == 2
    assert {f"val_{name}" for name in METRIC_NAMES} <= history.keys()


def test_the_figures_are_those_of_the_saved_model(finished):
    training, metrics = finished
    model = keras.models.load_model(training.out / "model.keras")
    assert evaluate_coco(model, training.val_data, verbose=0).figures == metrics["figures"]


def test_a_finished_training_resumes_to_the_same_results(finished, data):
    training, metrics = finished
    settings = TrainingSettings(**data, **TINY)
    again = Training(settings, training.out, resume=True)
    assert again.epochs_done == again.settings.epochs == 2
    assert again.settings == training.settings
    for a, b in zip(again.model.get_weights(), training.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_full_disk_at_the_end_leaves_the_old_model_and_says_what_to_do(finished):
    training, _ = finished
    before = (training.out / "model.keras").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        with pytest.raises(OSError, match=r"results.*epoch-00002 is kept.*with --resume"):
            training.run(verbose=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (training.out / "model.keras").read_bytes() == before
    assert not list(training.out.glob("unfinished*"))


@pytest.mark.slow
def test_the_serving_check_compares_with_a_process_without_keras(finished, data, tmp_path):
    training, _ = finished
    model = training.model
    # Every place is filled, with confidences apart, so that there is something to compare.
    model.decoder = dataclasses.replace(model.decoder, score_threshold=0.0)
    (kernel,) = (w for w in model.weights if "class_logits/kernel" in w.path)
    kernel.assign(np.random.default_rng(0).normal(0, 1, kernel.shape))
    from keras_dyhead.export import export_saved_model

    export_saved_model(model, tmp_path)
    images = sorted(data["images"].iterdir())[:2]
    detections = detect_images(model, images)
    result = check_serving(tmp_path, images, detections)
    assert result == {"same": True, "images": 2, "detections": 200}
    moved = [found | {"boxes": found["boxes"] + 0.2} for found in detections]
    assert not check_serving(tmp_path, images, moved)["same"]
    failed = check_serving(tmp_path / "absent", images, detections)
    assert not failed["same"] and "absent" in failed["error"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "not empty"),
        ({"resume": True, "num_blocks": 2}, "num_blocks=1"),
        ({"resume": True, "overwrite": True}, "exclude"),
    ],
)
def test_a_training_is_not_replaced_by_accident(finished, data, flags, message):
    training, _ = finished
    changed = {"num_blocks": flags.pop("num_blocks", 1)}
    with pytest.raises(ValueError, match=message):
        Training(TrainingSettings(**data, **TINY, **changed), training.out, **flags)
    assert (training.out / "metrics.json").exists()


def test_overwriting_spares_files_that_are_not_a_training(data, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    settings = TrainingSettings(**data, **TINY)
    for flags in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(ValueError, match="letter|not empty|no training"):
            Training(settings, tmp_path, **flags)
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "model.keras").write_text("old")
    Training(settings, tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letter.txt", "settings.json"]


def test_the_demo_holds_out_half_and_keeps_its_drawings_with_the_results(tmp_path):
    training = demo_training(tmp_path / "demo", num_images=5, epochs=1)
    train, held_out = training.train_data.annotations, training.val_data.annotations
    assert (len(train.images), len(held_out.images)) == (3, 2)
    assert not {image.path.name for image in train.images} & {
        image.path.name for image in held_out.images
    }
    assert train.images[0].path.is_relative_to(tmp_path / "demo")
    assert demo_training(tmp_path / "demo", num_images=5, epochs=1, resume=True).epochs_done == 0
    with pytest.raises(ValueError, match="not empty"):
        demo_training(tmp_path / "demo", num_images=5, epochs=1)


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_last_epoch(data, tmp_path):
    out = tmp_path / "run"
    arguments = [sys.executable, "-m", "keras_dyhead.cli", "train", "--out", out, "--epochs", "6"]
    arguments += ["--images", data["images"], "--annotations", data["annotations"]]
    arguments += ["--image-size", "64", "--channels", "16", "--batch-size", "2"]
    arguments += ["--detector", "retinanet", "--no-dyhead", "--eval-every", "3"]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(out.glob("checkpoints/epoch-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (reached,) = json.loads(sorted(out.glob("checkpoints/*/records.json"))[-1].read_text())[-1:]
    assert 1 <= reached["epoch"] < 6 and not (out / "model.keras").exists()

    settings = json.loads((out / "settings.json").read_text())["settings"]
    assert (settings["detector"], settings["num_blocks"]) == ("retinanet", 0)

    resumed = subprocess.run([*arguments, "--resume"], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert f"{reached['epoch']} epochs are done already" in resumed.stdout
    assert "Traceback" not in resumed.stderr
    assert all((out / name).exists() for name in RESULTS)
    history = json.loads((out / "history.json").read_text())
    assert history["epoch"] == [1, 2, 3, 4, 5, 6]
    assert history["loss"][reached["epoch"] - 1] == reached["loss"]
    assert json.loads((out / "metrics.json").read_text())["serving_check"]["same"]
