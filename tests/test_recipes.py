"""Recipes are complete, and what is given on the command line wins over them."""

import dataclasses
import importlib
import inspect
import json

import keras
import numpy as np
import pytest
from published_weights import generated_weight
from safetensors.numpy import save_file
from typer.testing import CliRunner

from keras_dyhead import training
from keras_dyhead.backbones import ResNetBackbone
from keras_dyhead.checkpoints import COMPOSED, tables
from keras_dyhead.checkpoints.backbone_weights import backbone_part
from keras_dyhead.cli import app
from keras_dyhead.coco.shapes import draw_shapes
from keras_dyhead.detectors import DetectionPreprocessor
from keras_dyhead.recipes import RECIPES, recipe_settings
from keras_dyhead.training import TrainingSettings, build_detector

X101 = "atss_x101_dcn_dyhead_2x"
TINY = {"depth": 50, "base_channels": 8, "deformable_stages": (5,)}


@pytest.fixture
def data(tmp_path):
    path = draw_shapes(tmp_path / "data", 2, image_size=64, empty_fraction=0)
    return {"images": tmp_path / "data" / "images", "annotations": path}


def train(data, out, *options):
    arguments = [x for name, path in data.items() for x in (f"--{name}", path)]
    return CliRunner().invoke(app, [str(a) for a in ("train", *arguments, "--out", out, *options)])


@pytest.fixture
def settings_of(monkeypatch, data, tmp_path):
    """Returns the settings that `keras-dyhead train` with some options would train with."""

    def settings_of(*options):
        asked = []

        def stop(settings, *_):
            asked.append(settings)
            raise ValueError("asked enough")

        monkeypatch.setattr(training, "Training", stop)
        assert "asked enough" in train(data, tmp_path / "run", *options).output
        return asked[0]

    return settings_of


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_tells_command_cost_and_expected_ap_and_can_be_built(name, data):
    text = importlib.import_module(f"keras_dyhead.recipes.{name}").__doc__
    assert f"keras-dyhead train --recipe {name} " in text
    assert all(part in text for part in ("Cost:", "Expected:", " AP ", "Source:"))
    settings = TrainingSettings(**data, **recipe_settings(name))
    json.dumps(dataclasses.asdict(settings))
    if not isinstance(settings.backbone, str):
        inspect.signature(ResNetBackbone).bind(**settings.backbone)


def test_the_54_ap_recipe_has_the_backbone_that_is_held_against_the_reference():
    published = COMPOSED["atss_x101-64x4d-dcnv2_fpn_dyhead"].backbone_arguments
    assert dict(style="pytorch", **recipe_settings(X101)["backbone"]) == published


def test_options_on_the_command_line_win_over_the_recipe(settings_of):
    """Also one that equals the command's default, and only those that were given."""
    recipe = recipe_settings(X101)
    found = dataclasses.asdict(settings_of("--recipe", X101))
    assert {name: found[name] for name in recipe} == recipe
    options = ("--num-blocks", "1", "--batch-size", "2", "--backbone", "small")
    found = settings_of("--recipe", X101, *options)
    assert (found.num_blocks, found.batch_size, found.backbone) == (1, 2, "small")
    assert (found.epochs, found.weight_decay) == (24, 0.05)
    assert settings_of("--recipe", X101, "--no-dyhead").num_blocks == 0


def test_without_a_recipe_the_settings_are_the_defaults(settings_of, data):
    assert settings_of() == TrainingSettings(**data)


def test_an_unknown_recipe_is_told_the_known_ones(data, tmp_path):
    result = train(data, tmp_path / "run", "--recipe", "x50")
    assert result.exit_code == 2 and X101 in result.output and "'x50'" in result.output


def test_a_recipe_without_the_weights_it_needs_is_refused_before_anything_is_written(
    data, tmp_path
):
    result = train(data, tmp_path / "run", "--recipe", X101)
    assert result.exit_code == 2 and "needs trained weights" in result.output
    assert not (tmp_path / "run").exists()


def test_a_backbone_given_by_its_arguments_takes_weights_from_a_file(data, tmp_path):
    """Those of ImageNet, which have no offsets; the data the settings are written to keep all."""
    plain = ResNetBackbone(50, base_channels=8)
    part = backbone_part(plain, tables.RESNET_TORCHVISION, "")
    state = {}
    for path, weight in part.weights.items():
        shape = tuple(weight.shape)
        shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape
        state[part.tensor_name(path)] = generated_weight(path, shape)
    save_file(state, tmp_path / "resnet.safetensors")
    settings = TrainingSettings(
        **data,
        backbone=TINY,
        backbone_weights=tmp_path / "resnet.safetensors",
        image_size=64,
        channels=16,
        max_level=5,
        head_convs=0,
        anchor_scale=4.0,
    )
    model = build_detector(settings, ["a"], 10, DetectionPreprocessor(image_size=(64, 64)))
    assert model.backbone.deformable_stages == (5,)
    np.testing.assert_array_equal(
        model.backbone.get_layer("layer4_0_conv2").kernel,
        state["layer4.0.conv2.weight"].transpose(2, 3, 1, 0),
    )
    with pytest.raises(ValueError, match="given by its arguments.*'small'"):
        build_detector(
            dataclasses.replace(settings, backbone="small"), ["a"], 10, model.preprocessor
        )
    settings = dataclasses.replace(
        settings, backbone=TINY | {"batch_norm": "train"}, backbone_weights=None
    )
    model = build_detector(settings, ["a"], 10, model.preprocessor)
    assert isinstance(model.backbone.get_layer("bn1"), keras.layers.BatchNormalization)
