"""`keras-dyhead convert` turns published checkpoints into model files and reports bad input."""

import json
import sys

import keras
import numpy as np
import pytest
import torch
from cli.commands import complaint, output_of
from published_weights import generated_weight, microsoft_tower
from safetensors.numpy import save_file

from keras_dyhead.checkpoints import PUBLISHED, PublishedModel, load_checkpoint
from keras_dyhead.checkpoints.load_checkpoint import detector_parts
from keras_dyhead.coco import draw_shapes


@pytest.fixture
def tiny(monkeypatch):
    """A small published model: its name, and a checkpoint with generated tensors."""
    record = PublishedModel(
        origin="microsoft",
        detector="atss",
        backbone="ResNetBackbone",
        backbone_arguments={"depth": 18, "base_channels": 8},
        neck={"num_blocks": 1, "channels": 16, "alignment": "published"},
        pyramid={"channels": 16, "max_level": 5},
        arguments={"head_kernel_size": 1},
        preprocessing={"min_side": 64, "max_side": 96, "channel_order": "BGR"},
        ap=1.5,
        source="http://127.0.0.1:1/models/tiny.pth",
    )
    monkeypatch.setitem(PUBLISHED, "tiny", record)
    state = microsoft_tower(16, 1, prefix="backbone.dyhead_tower.")
    for part in detector_parts(record.build(), record, state):
        for path, variable in part.weights.items():
            name, shape = part.tensor_name(path), tuple(variable.shape)
            if path.endswith("kernel") and len(shape) == 4:
                shape = (shape[3], shape[2], *shape[:2])
            state.setdefault(name, generated_weight(name, shape))
    return "tiny", state


def test_a_converted_model_computes_the_same_bits_without_pytorch(tiny, tmp_path, monkeypatch):
    name, state = tiny
    source = tmp_path / "tiny.safetensors"
    save_file({key: np.ascontiguousarray(value) for key, value in state.items()}, source)
    told = output_of("convert", name, source, tmp_path / "new" / "tiny.keras")
    assert "AP" not in told  # which is that of the published file

    model = load_checkpoint(name, source)
    for package in ("torch", "safetensors"):  # importing them fails
        monkeypatch.setitem(sys.modules, package, None)
    found = keras.saving.load_model(tmp_path / "new" / "tiny.keras")
    assert found.preprocessor.channel_order == "BGR" and found.class_names[79] == "toothbrush"
    images = np.random.default_rng(0).normal(size=(1, 64, 96, 3)).astype("float32")
    for value, expected in zip(found(images).values(), model(images).values(), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_convert_refuses_to_overwrite_and_reports_bad_input(tiny, tmp_path):
    source, out = tmp_path / "x.pth", tmp_path / "x.keras"
    source.write_text("<!DOCTYPE html>")
    assert "x.pth is a web page" in complaint("convert", "tiny", source, out)
    assert "`name` must be one of" in complaint("convert", "unknown", source, out)
    assert "must end in .keras" in complaint("convert", "tiny", source, tmp_path / "x.h5")
    assert "There is no file" in complaint("convert", "tiny", tmp_path / "none.pth", out)
    assert "Give NAME and OUT" in complaint("convert", "tiny")
    assert "Give NAME and OUT" in complaint("convert", "tiny", source)
    out.write_text("mine")
    assert "already exists. Use --overwrite" in complaint("convert", "tiny", source, out)
    assert out.read_text() == "mine"


def test_a_published_file_comes_from_the_cache_or_the_error_says_where_to_put_it(
    tiny, tmp_path, monkeypatch
):
    """Every command that takes a `.keras` file also takes a published name."""
    name, state = tiny
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "shapes").mkdir()
    draw_shapes(tmp_path / "shapes", 1, image_size=64)
    images = tmp_path / "shapes" / "images"
    data = ("--images", images, "--annotations", tmp_path / "shapes" / "instances.json")
    place = tmp_path / "models" / "tiny.pth"
    for command in (
        ("convert", name, tmp_path / "tiny.keras"),
        ("predict", images, "--model", name),
        ("evaluate", "--model", name, *data),
        ("train", "--weights", name, *data, "--out", tmp_path / "run"),
        ("export", name, "--out", tmp_path / "model"),
        ("visualize", "--model", name, "--images", images, "--out", tmp_path / "report"),
    ):
        told = complaint(*command)
        assert "could not be downloaded" in told and str(place) in told
    torch.save({key: torch.tensor(value) for key, value in state.items()}, place)
    told = output_of("convert", name, tmp_path / "tiny.keras")
    assert "80 classes" in told and "published with 1.5 AP" in told
    found = json.loads(output_of("predict", images, "--model", name, "--score-threshold", 0))
    assert len(found["images"]) == 1 and found["model"] == name
    told = complaint("predict", images, "--model", "tiny.kears")
    assert "no file tiny.kears, and no published model of that name" in told


def test_convert_lists_the_published_models():
    told = output_of("convert", "list")
    for name, record in PUBLISHED.items():
        assert name in told and record.source in told and f"{record.ap} AP" in told
