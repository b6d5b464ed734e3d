"""Writes the results of a training run: model, metrics, pictures, and a check of the export."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from keras_dyhead.checkpoints.durable import save_model
from keras_dyhead.coco import METRIC_NAMES, CocoAnnotations
from keras_dyhead.detectors import Detector
from keras_dyhead.export import export_saved_model
from keras_dyhead.inference import detect_images, read_rgb
from keras_dyhead.training import serving_check
from keras_dyhead.training.plan import package_versions
from keras_dyhead.training.settings import TrainingSettings
from keras_dyhead.visualization import plot_detections
from keras_dyhead.visualization.evaluation import plot_history

RESULTS = (
    *("tensorboard", "model.keras", "saved_model", "history.json", "history.csv", "history.png"),
    *("detections.png", "metrics.json"),
)
"""Names of the results of a finished training run in its folder, in the order of writing."""

_PICTURES = 6


def write_results(
    model: Detector,
    annotations: CocoAnnotations,
    settings: TrainingSettings,
    records: Sequence[dict[str, float]],
    out: Path,
    epoch: int | None = None,
) -> dict:
    """Writes all files of a finished training run, see `RESULTS`. The last one marks completion.

    `annotations` are the evaluation images, the first of which are drawn. `records` has one
    dictionary per epoch, see `EpochCheckpoint`; that of `epoch`, by default the last, has the
    metrics of the weights. Returns the content of `metrics.json`. Its `serving_check` (see
    `check_serving`) is `None` on backends other than TensorFlow, which write no SavedModel.
    """
    started = time.perf_counter()
    save_model(model, out / "model.keras")
    shutil.rmtree(out / "saved_model", ignore_errors=True)
    exports = keras.backend.backend() == "tensorflow"
    if exports:
        export_saved_model(model, out / "saved_model", class_names=annotations.class_names)

    names = dict.fromkeys(name for record in records for name in record)
    history = {name: [record.get(name) for record in records] for name in names}
    (out / "history.json").write_text(json.dumps(history, indent=1))
    with open(out / "history.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(history))
        writer.writeheader()
        writer.writerows(records)
    plot_history(history).savefig(out / "history.png", dpi=120)

    chosen = [image for image in annotations.images if len(image.boxes)] or annotations.images
    chosen = chosen[:_PICTURES]
    pictures = [read_rgb(image.path) for image in chosen]
    detections = detect_images(model, pictures)
    truths = [{"boxes": image.boxes, "labels": image.labels} for image in chosen]
    figure = plot_detections(pictures, truths, detections, annotations.class_names)
    figure.savefig(out / "detections.png", dpi=120)

    check = None
    if exports:
        check = check_serving(out / "saved_model", [image.path for image in chosen], detections)
    record = records[-1 if epoch is None else epoch - 1]
    metrics = {
        "figures": {name: record.get(f"{settings.figure_prefix}{name}") for name in METRIC_NAMES},
        "epoch": record["epoch"],
        "evaluated_on": "validation" if settings.held_out else "training",
        "class_names": list(annotations.class_names),
        "images_evaluated": len(annotations.images),
        "epochs": len(records),
        "parameters": model.count_params(),
        "serving_check": check,
        "timings": {
            "training": round(sum(record["seconds"] for record in records), 1),
            "first_epoch": records[0]["seconds"],
            "results": round(time.perf_counter() - started, 1),
        },
        "settings": dataclasses.asdict(settings),
        "versions": package_versions(),
    }
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1))
    return metrics


def check_serving(
    saved_model: Path, images: Sequence[Path], expected: Sequence[dict[str, np.ndarray]]
) -> dict:
    """Compares the detections of a SavedModel in a process without Keras with the model's.

    A fresh Python process that can import neither Keras nor this package runs the SavedModel on the
    bytes of the image files. Detections agree if each has a counterpart of the same class with a
    confidence within 0.001 and a box within 0.1 % of the image's longer side. Detections within
    0.001 of the lowest confidence may be missing, because rounding decides about them.

    Args:
        saved_model: Folder of the SavedModel.
        images: Image files.
        expected: The Keras model's detections: `boxes` in image pixels, `labels`, `confidence`.

    Returns:
        `{"same": bool, "images": int, "detections": int}`, with `"error"` if the process failed.

    Example:
    ```python
    export_saved_model(model, "served")
    detections = detect_images(model, [read_rgb("street.jpg")])
    assert check_serving(Path("served"), [Path("street.jpg")], detections)["same"]
    ```
    """
    script = serving_check.__file__
    result = {"same": False, "images": len(images), "detections": 0}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "detections.npz")
        process = subprocess.run(
            [sys.executable, "-I", script, saved_model, output, *images],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
        )
        if process.returncode:
            return result | {"error": process.stderr.strip()[-2000:]}
        with np.load(output) as arrays:
            detections = dict(arrays)
    served = [{name: v[i] for name, v in detections.items()} for i in range(len(images))]
    result["detections"] = sum(int((found["labels"] >= 0).sum()) for found in served)
    sides = [max(read_rgb(image).shape[:2]) for image in images]
    result["same"] = all(map(_agree, expected, served, sides))
    return result


def _agree(first: dict, second: dict, side: int) -> bool:
    """Whether each detection in either set has a counterpart in the other."""
    a, b = (
        {name: found[name][found["labels"] >= 0] for name in ("boxes", "labels", "confidence")}
        for found in (first, second)
    )
    boxes = np.abs(a["boxes"][:, None] - b["boxes"][None]).max(-1, initial=0) <= 1e-3 * side
    scores = np.abs(a["confidence"][:, None] - b["confidence"][None]) <= 1e-3
    same = boxes & scores & (a["labels"][:, None] == b["labels"][None])
    weakest = min(np.concatenate([a["confidence"], b["confidence"]]), default=0) + 1e-3
    return bool(
        np.all(same.any(1) | (a["confidence"] < weakest))
        and np.all(same.any(0) | (b["confidence"] < weakest))
    )
