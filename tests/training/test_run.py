"""Training writes all its results, survives SIGKILL, and refuses what it must not touch."""

import csv
import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_dyhead.coco import METRIC_NAMES, evaluate_coco
from keras_dyhead.printable import counted
from keras_dyhead.training import Training, TrainingSettings, results, run
from keras_dyhead.training.callbacks import AveragedEvaluation
from keras_dyhead.training.results import RESULTS

TINY = {"batch_size": 2, "image_size": 64, "channels": 16, "max_level": 5}
TINY |= {"detector": "retinanet", "num_blocks": 0}


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished training run and what it returned."""
    out = tmp_path_factory.mktemp("runs") / "new"
    training = Training(TrainingSettings(**data, **TINY, epochs=2), out)
    return training, training.run(verbose=0)


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
    assert {f"train_{name}" for name in METRIC_NAMES} <= history.keys()  # no validation images
    assert (metrics["epoch"], metrics["evaluated_on"]) == (2, "training")


def test_the_metrics_are_those_of_the_saved_model(finished):
    training, metrics = finished
    model = keras.models.load_model(training.out / "model.keras")
    assert evaluate_coco(model, training.val_data, verbose=0).figures == metrics["figures"]


def test_resuming_a_finished_run_gives_the_same_results(finished, tiny):
    training, _ = finished
    again = Training(tiny(), training.out, resume=True)
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


def test_the_best_epoch_on_validation_images_becomes_the_model(
    tiny, tmp_path, capsys, monkeypatch, eager
):
    """Also after resuming the last epoch. A run that is out of patience ends."""
    scores = iter([0.3, 0.2, 0.1, 0.0])
    measure, seen = AveragedEvaluation.on_epoch_end, []

    def worse_and_worse(self, epoch, logs):
        measure(self, epoch, logs)
        seen.append(self.model.get_weights())
        logs["val_AP"] = next(scores)

    monkeypatch.setattr(AveragedEvaluation, "on_epoch_end", worse_and_worse)
    monkeypatch.setattr(results, "export_saved_model", lambda *_, **__: None)
    monkeypatch.setattr(results, "check_serving", lambda *_: None)
    settings = tiny(val_split=0.34, epochs=9, patience=2)
    training = Training(settings, tmp_path / "run")
    assert len(training.train_data.annotations.images) == 4
    assert len(training.val_data.annotations.images) == 2
    metrics = training.run(verbose=2)
    assert (metrics["epoch"], metrics["epochs"], metrics["evaluated_on"]) == (1, 3, "validation")
    assert metrics["figures"]["AP"] == 0.3
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "epoch 3/9" in lines[2] and "val_AP 0.100" in lines[2]
    again = Training(settings, tmp_path / "run", resume=True)
    assert again.run(verbose=0)["epoch"] == 1 and len(seen) == 3
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    for a, b in zip(model.get_weights(), seen[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_resumed_on_other_data_says_so(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "build_detector", lambda *_, **__: None)
    settings = tiny()
    assert Training(settings, tmp_path / "run").notes == []
    monkeypatch.setattr(run.EpochCheckpoint, "restore", lambda self, model: None)
    assert Training(settings, tmp_path / "run", resume=True).notes == []
    content = json.loads(Path(settings.annotations).read_text())
    content["annotations"].pop()
    (tmp_path / "other.json").write_text(json.dumps(content))
    settings = dataclasses.replace(settings, annotations=tmp_path / "other.json")
    count = len(content["annotations"])
    with pytest.warns(
        UserWarning, match=f"The data .* changed: .*{count + 1} boxes before, 6.*{count} boxes now"
    ):
        assert len(Training(settings, tmp_path / "run", resume=True).notes) == 1
    held_out = {"val_images": settings.images, "val_annotations": settings.annotations}
    settings = dataclasses.replace(settings, **held_out)
    Training(settings, tmp_path / "held out")
    settings = dataclasses.replace(settings, val_annotations=tiny().annotations)
    with pytest.warns(UserWarning, match=f"The validation data .* {count} boxes before"):
        assert len(Training(settings, tmp_path / "held out", resume=True).notes) == 1


def test_classes_without_boxes_are_noted(tiny, tmp_path, monkeypatch):
    """Exporters add a root category, which would be a class."""
    monkeypatch.setattr(run, "build_detector", lambda *_, **__: None)
    settings = tiny()
    content = json.loads(Path(settings.annotations).read_text())
    content["categories"].append({"id": 99, "name": "root"})
    (tmp_path / "other.json").write_text(json.dumps(content))
    settings = dataclasses.replace(settings, annotations=tmp_path / "other.json")
    with pytest.warns(UserWarning, match=r"have no boxes of these classes: \['root'\]"):
        Training(settings, tmp_path / "run")


def test_a_run_that_resumes_inside_an_epoch_finishes_it(tiny, tmp_path, monkeypatch):
    """Its weights are those of no epoch."""

    def find(self):
        self.records = [{"epoch": 1, "val_AP": 0.2}, {"epoch": 2, "val_AP": 0.1}]
        self.steps = 1

    def fit(self, verbose):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "build_detector", lambda *_, **__: None)
    Training(tiny(val_split=0.34, epochs=3), tmp_path / "run")
    monkeypatch.setattr(run.EpochCheckpoint, "find", find)
    monkeypatch.setattr(run.EpochCheckpoint, "restore", lambda self, model: None)
    monkeypatch.setattr(Training, "_fit", fit)
    with pytest.raises(ValueError, match="`epochs` must be at least 3.*Received: epochs=2"):
        Training(tiny(val_split=0.34, epochs=2), tmp_path / "run", resume=True)
    impatient = tiny(val_split=0.34, epochs=3, patience=1)
    training = Training(impatient, tmp_path / "run", resume=True)
    assert training._checkpoint.out_of_patience
    with pytest.raises(KeyboardInterrupt):
        training.run(verbose=0)


@pytest.mark.parametrize("content", ["", '{"settings": {"epo', "null", "[]", '{"settings": {}}'])
def test_a_damaged_record_of_the_settings_is_named(tiny, tmp_path, monkeypatch, content):
    monkeypatch.setattr(run, "build_detector", lambda *_, **__: None)
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(ValueError, match="settings.json is not as training wrote it.*--overw"):
        Training(tiny(), tmp_path, resume=True)
    assert (tmp_path / "settings.json").read_text() == content
    Training(tiny(), tmp_path, overwrite=True)


def test_mirrored_without_a_gpu_says_so(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "build_detector", lambda *_, **__: None)
    with pytest.warns(UserWarning, match="no GPU.*shared by 1 CPU device"):
        Training(tiny(strategy="mirrored"), tmp_path / "run")


@pytest.mark.parametrize(
    ("flags", "changes", "message"),
    [
        ({}, {}, "not empty"),
        ({"resume": True}, {"num_blocks": 2}, "num_blocks=0"),
        ({"resume": True}, {"anchor_scale": 99}, r"anchor_scale=\d.* \(now 99\)"),
        ({"resume": True, "overwrite": True}, {}, "cannot both be set"),
    ],
)
def test_a_run_is_not_replaced_by_accident(finished, tiny, flags, changes, message):
    training, _ = finished
    with pytest.raises(ValueError, match=message):
        Training(tiny(**changes), training.out, **flags)
    assert (training.out / "metrics.json").exists()


def test_overwriting_spares_files_that_are_not_a_run(tiny, tmp_path, monkeypatch):
    (tmp_path / "letter.txt").write_text("mine")
    for flags in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(ValueError, match="not empty|no training"):
            Training(tiny(), tmp_path, **flags)
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "model.keras").write_text("old")
    monkeypatch.setattr(run, "build_detector", lambda *_, **__: None)
    Training(tiny(), tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letter.txt", "settings.json"]


@pytest.mark.parametrize("name", ["weights", "backbone_weights"])
def test_overwriting_spares_the_weights_to_start_from(data, tmp_path, monkeypatch, name):
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / "model.keras").write_text("trained for days")
    monkeypatch.chdir(tmp_path)
    settings = TrainingSettings(**data, **{name: "model.keras"})
    with pytest.raises(ValueError, match=r"would delete model\.keras"):
        Training(settings, tmp_path, overwrite=True)
    assert (tmp_path / "model.keras").exists()


@pytest.mark.slow
def test_a_killed_run_resumes_from_its_last_epoch(data, tmp_path):
    out = tmp_path / "run"
    arguments = [sys.executable, "-m", "keras_dyhead.cli", "train", "--out", out, "--epochs", "6"]
    arguments += ["--images", data["images"], "--annotations", data["annotations"]]
    arguments += ["--image-size", "64", "--channels", "16", "--batch-size", "2"]
    arguments += ["--detector", "retinanet", "--num-blocks", "1", "--eval-every", "3"]
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
    assert (settings["detector"], settings["num_blocks"]) == ("retinanet", 1)

    resumed = subprocess.run([*arguments, "--resume"], capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed  after {counted(reached['epoch'], 'epoch')} and " in resumed.stdout
    assert "Traceback" not in resumed.stderr
    assert all((out / name).exists() for name in RESULTS)
    history = json.loads((out / "history.json").read_text())
    assert history["epoch"] == [1, 2, 3, 4, 5, 6]
    assert history["loss"][reached["epoch"] - 1] == reached["loss"]
    assert json.loads((out / "metrics.json").read_text())["serving_check"]["same"]
