"""`keras-dyhead train` works from images to a model and its metrics on every backend."""

import json

import keras
import pytest
from cli.commands import invoke

from keras_dyhead.coco import METRIC_NAMES, draw_shapes
from keras_dyhead.training import Training, TrainingSettings, run

BACKEND = keras.backend.backend()


def test_what_needs_tensorflow_is_announced_and_left_out(tmp_path, monkeypatch):
    annotations = draw_shapes(tmp_path / "data", 2, image_size=64, empty_fraction=0)
    images = annotations.parent / "images"
    settings = TrainingSettings(images, annotations, batch_size=2, strategy="mirrored")
    monkeypatch.setattr(run, "build_detector", lambda *_, **__: None)
    with pytest.warns(UserWarning, match="no GPU" if BACKEND == "tensorflow" else "SavedModel"):
        training = Training(settings, tmp_path / "run")
    told = " ".join(training.notes)
    for note in ("no SavedModel can be written", "'mirrored' requires TensorFlow"):
        assert (note in told) == (BACKEND != "tensorflow")
    assert training.settings.strategy == ("mirrored" if BACKEND == "tensorflow" else "none")


@pytest.mark.slow
@pytest.mark.skipif(BACKEND == "tensorflow", reason="tests/training/test_run.py has more of it")
def test_a_run_writes_everything_that_does_not_need_tensorflow(tmp_path):
    annotations = draw_shapes(tmp_path / "data", 4, image_size=64, empty_fraction=0)
    data = ["--images", tmp_path / "data" / "images", "--annotations", annotations]
    model = ["--num-blocks", 0, "--channels", 16, "--image-size", 64, "max_level=5"]
    run = ["--batch-size", 2, "--epochs", 1, "--save-every", 1, "--out", tmp_path / "run"]
    done = invoke("train", *data, *model, *run, "--strategy", "mirrored")
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert (
        "no SavedModel can be written" in said and "strategy 'mirrored' requires TensorFlow" in said
    )
    out = tmp_path / "run"
    written = {path.name for path in out.iterdir()}
    assert {"model.keras", "metrics.json", "history.png", "detections.png"} <= written
    assert "saved_model" not in written
    assert (out / "checkpoints" / "epoch-00000-step-0000001").is_dir()
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["figures"]) == set(METRIC_NAMES) and metrics["serving_check"] is None
    assert None not in metrics["figures"].values()
    assert metrics["versions"]["backend"] == BACKEND
    assert keras.saving.load_model(out / "model.keras").num_classes == 5
    done = invoke("export", out / "model.keras", "--out", tmp_path / "exported")
    assert done.exit_code == 2 and "KERAS_BACKEND=tensorflow" in done.output
