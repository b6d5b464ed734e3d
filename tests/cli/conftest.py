"""A model file, a drawn dataset, photos, and detections that need no model."""

import keras
import numpy as np
import pytest
from PIL import Image
from small_detector import picture

from keras_dyhead import inference
from keras_dyhead.coco import draw_shapes


@pytest.fixture(scope="session")
def folder(small_model, tmp_path_factory):
    """A folder with the model, drawn images and their annotations, and images of other sizes."""
    path = tmp_path_factory.mktemp("cli")
    small_model.save(path / "model.keras")
    draw_shapes(path / "data", 3, image_size=64, empty_fraction=0).rename(path / "shapes.json")
    (path / "photos").mkdir()
    for name, size in (("wide.png", (40, 90)), ("tall.jpg", (150, 70)), ("gray.png", (64, 64))):
        photo = Image.fromarray(picture(*size))
        photo.convert("L" if name == "gray.png" else "RGB").save(path / "photos" / name)
    (path / "photos" / "notes.txt").write_text("no image")
    return path


@pytest.fixture
def views(small_model, monkeypatch):
    """Makes detections depend only on the image size; returns the augmentations and tiles used.

    The model is not read from its file.
    """
    asked = []

    def image_detector(model, tta=None, tiles=None):
        asked.append(tta)
        asked.extend([] if tiles is None else [tiles])
        return lambda image: {
            "boxes": np.array([[2, 3, 30, 40], [0, 0, *image.shape[1::-1]], [9, 9, 20, 30]], "f4"),
            "labels": np.array([0, image.shape[0] % 5, 2], "int32"),
            "confidence": np.array([0.9, 0.8, 0.2], "float32"),
        }

    monkeypatch.setattr(inference, "image_detector", image_detector)
    monkeypatch.setattr(keras.saving, "load_model", lambda path, compile: small_model)
    return asked
