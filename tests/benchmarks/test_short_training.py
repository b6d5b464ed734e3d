"""The comparison on a GPU: drawing, evaluation, and a tiny run on CPUs."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import short_training, wheels
from benchmarks.short_training import Trial
from keras_dyhead.coco import SHAPES, coco_metrics

TINY = {"image_size": 64, "images": 4, "held_out": 3}


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """A folder with the images of tiny trials."""
    monkeypatch.setattr(short_training, "DATA", tmp_path)
    trial = Trial(**TINY)
    for path, count in zip(short_training.files_of(trial), (4, 3), strict=True):
        np.savez(path, **short_training._draw_part((0, count, 64)))
    return tmp_path


def test_drawn_boxes_are_evaluated_and_flipped_with_their_images(drawn):
    _, path = short_training.files_of(Trial(**TINY))
    arrays = dict(np.load(path))
    found = arrays | {
        "confidence": np.ones_like(arrays["labels"], "float32"),
        "num_detections": (arrays["labels"] >= 0).sum(axis=1),
    }
    truth = short_training._coco(arrays, len(SHAPES))
    assert len(truth["annotations"]) > 0
    results = short_training._results(found, 3)
    assert coco_metrics(truth, results, workers=1).figures["AP"] == 1
    flipped = short_training._flipped(arrays["images"], arrays["boxes"])
    assert np.array_equal(flipped[0][:, :, 0], arrays["images"][:, :, -1])
    for back, before in zip(short_training._flipped(*flipped), ("images", "boxes"), strict=True):
        assert np.array_equal(back, arrays[before])


def test_all_train_for_the_same_number_of_steps(monkeypatch, tmp_path):
    asked = []

    class Pool:
        def __init__(self, workers, context, start, arguments):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, train, trial, files, seconds, epochs):
            asked.append((trial.num_blocks, seconds, epochs))
            figures = {"AP": 0.25, "AP50": 0.5}
            line = {"figures": figures, "epochs": 7, "steps": 70, "images_per_second": 3.0}
            line |= {"peak_mib": 10.0, "version": "v"}
            return type("", (), {"result": lambda self: line})()

    monkeypatch.setattr(short_training.concurrent.futures, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(short_training, "draw", lambda trial: None)
    arguments = ["--minutes", "5", "--out", str(tmp_path / "found")]
    result = CliRunner().invoke(short_training.app, arguments)
    assert result.exit_code == 0, result.output
    assert asked == [(6, 150.0, 0), (0, float("inf"), 7)]
    table = (tmp_path / "found.md").read_text()
    assert "| without DyHead | 70 | 25.0 | 50.0 | 3.0 | 10 MiB |" in table
    assert len((tmp_path / "found.jsonl").read_text().splitlines()) == 2
    CliRunner().invoke(short_training.app, arguments)
    assert len(asked) == 2


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_tiny_detector_trains(drawn, backend):
    sizes = {"backbone": "resnet18", "channels": 16, "batch_size": 2, "minutes": 0.001}
    (line,) = short_training.run([Trial(1, backend, **TINY, **sizes)], None)
    assert line["steps"] == 20  # ten that compile, ten that exceed the time
    assert set(line["figures"]) > {"AP", "AR100"} and line["images_per_second"] > 0
    assert len(line["losses"]) == 2 and np.isfinite(line["losses"]).all()
    assert json.loads(json.dumps(line)) and line["peak_mib"] > 0


def test_requirements_of_jax_and_pytorch_are_left_out():
    needed = wheels.needed("3.12")
    assert {"keras", "optree", "h5py", "pycocotools", "typer"} <= set(needed)
    assert not {"tensorflow", "torch", "jax", "jaxlib", "numpy", "ml-dtypes"} & set(needed)
