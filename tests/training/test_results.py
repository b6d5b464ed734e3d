"""The serving check finds differences between a SavedModel and its model."""

import dataclasses

import numpy as np
import pytest

from keras_dyhead.coco import CocoAnnotations
from keras_dyhead.export import export_saved_model
from keras_dyhead.inference import detect_images
from keras_dyhead.training import check_serving
from keras_dyhead.training.data import build_preprocessor
from keras_dyhead.training.model import build_model
from keras_dyhead.training.plan import resolve_settings


@pytest.mark.slow
def test_the_serving_check_compares_with_a_process_without_keras(data, tiny, tmp_path):
    settings = resolve_settings(tiny(), CocoAnnotations(data["annotations"]))
    model = build_model(settings, ["a", "b"], build_preprocessor(settings))
    # All detections are used, with distinct confidences, so that there is something to compare.
    model.decoder = dataclasses.replace(model.decoder, score_threshold=0.0)
    (kernel,) = (w for w in model.weights if "class_logits/kernel" in w.path)
    kernel.assign(np.random.default_rng(0).normal(0, 1, kernel.shape))
    export_saved_model(model, tmp_path)
    images = sorted(data["images"].iterdir())[:2]
    detections = detect_images(model, images)
    result = check_serving(tmp_path, images, detections)
    assert result == {"same": True, "images": 2, "detections": 200}
    moved = [found | {"boxes": found["boxes"] + 0.2} for found in detections]
    assert not check_serving(tmp_path, images, moved)["same"]
    failed = check_serving(tmp_path / "absent", images, detections)
    assert not failed["same"] and "absent" in failed["error"]
