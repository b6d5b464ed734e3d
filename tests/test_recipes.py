"""Recipes are complete, train the published models, and give way to what is given beside them."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from published_weights import generated_weight
from safetensors.numpy import save_file
from typer.testing import CliRunner

from keras_dyhead import backbones, training
from keras_dyhead.backbones import ResNetBackbone
from keras_dyhead.checkpoints import COMPOSED, PUBLISHED, tables
from keras_dyhead.checkpoints.backbone_weights import backbone_part
from keras_dyhead.cli import app
from keras_dyhead.coco import COCO_CLASSES, CocoAnnotations, draw_shapes
from keras_dyhead.detectors import DETECTORS, DetectionPreprocessor
from keras_dyhead.recipes import RECIPES, load_recipe, recipe_settings
from keras_dyhead.training import Training, TrainingSettings, build_detector
from keras_dyhead.training import model as model_module
from keras_dyhead.training.model import build_model
from keras_dyhead.training.settings import build_preprocessor

X101 = "atss_x101_dcn_dyhead_2x"
SWIN = "dyhead_swint_atss_fpn_2x_ms"
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

        def stop(settings, *_, **__):
            asked.append(settings)
            raise ValueError("asked enough")

        monkeypatch.setattr(training, "Training", stop)
        assert "asked enough" in train(data, tmp_path / "run", *options).output
        return asked[0]

    return settings_of


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_tells_command_cost_differences_and_the_ap_of_the_published_model(name, data):
    recipe = load_recipe(name)
    assert list(recipe.sections) == [
        *("Command", "Cost", "Expected", "Differs from the published training", "Source"),
    ]
    assert f"keras-dyhead train --recipe {name} --out " in recipe.sections["Command"]
    ap = (PUBLISHED | COMPOSED)[recipe.settings["detector"]].ap or 54.0  # of the paper's abstract
    assert recipe.sections["Expected"].startswith(f"{ap} AP on COCO")
    json.dumps(dataclasses.asdict(TrainingSettings(**data, **recipe.settings)))


def test_there_is_a_recipe_for_every_published_model():
    trained = {recipe_settings(name)["detector"] for name in RECIPES}
    assert trained == {*PUBLISHED, "atss_x101-64x4d-dcnv2_fpn_dyhead"}


@pytest.fixture
def recorded(monkeypatch):
    """Classes of detectors and backbones return their names and arguments instead of building."""

    def recorder(name):
        return lambda **arguments: {"class": name, **arguments}

    for name in DETECTORS:
        monkeypatch.setitem(DETECTORS, name, recorder(name))
    for name in ("ResNetBackbone", "SwinBackbone"):
        monkeypatch.setattr(backbones, name, recorder(name))
        monkeypatch.setitem(model_module._CLASSES, name, recorder(name))
    monkeypatch.setattr(model_module, "load_backbone_weights", lambda backbone, path: backbone)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds_the_very_model_that_is_published(name, data, recorded):
    """The same classes with the same arguments, and the same preprocessing."""
    settings = TrainingSettings(**data, **recipe_settings(name), backbone_weights="imagenet.pth")
    settings = settings.resolve(CocoAnnotations(data["annotations"]))
    built = build_model(settings, COCO_CLASSES, build_preprocessor(settings))
    expected = (PUBLISHED | COMPOSED)[settings.detector].build(dtype="float32")
    ours, theirs = (x.pop("preprocessor").get_config() for x in (built, expected))
    assert ours | {"name": None} == theirs | {"name": None}
    for part in ("neck", "pyramid"):
        ours, theirs = (x.pop(part).get_config() for x in (built, expected))
        assert ours == theirs
    assert built == expected


@pytest.mark.parametrize("name", RECIPES)
def test_canvases_hold_images_of_every_shape_at_their_full_size(name, data):
    """They are multiples of what the published training pads to, and none is superfluous."""
    settings = TrainingSettings(**data, **recipe_settings(name))
    preprocessor = build_preprocessor(settings)
    sides = settings.augmentation.get("sizes", (preprocessor.min_side,))
    assert max(sides) == preprocessor.min_side
    assert settings.augmentation.get("max_side", preprocessor.max_side) == preprocessor.max_side
    used = set()
    for height, width in [(h, w) for h in range(100, 641, 20) for w in range(100, 641, 20)]:
        height, width = preprocessor.resized_size(height, width)
        holding = [(h, w) for h, w in settings.canvases if h >= height and w >= width]
        used.add(min(holding, key=lambda canvas: canvas[0] * canvas[1]))
    assert used == set(settings.canvases)
    padded = {side % preprocessor.pad_multiple for canvas in settings.canvases for side in canvas}
    assert padded == {0}


def test_a_recipe_trains_with_everything_smaller(data, tmp_path):
    """One step of the Swin recipe: canvases of two shapes, drawn sizes, scaled learning rate."""
    small = {"class": "SwinBackbone", "embed_dim": 12, "depths": (1, 1, 1, 1)}
    small |= {"num_heads": (1, 1, 2, 2), "window_size": 4}
    settings = recipe_settings(SWIN) | {
        "batch_size": 2,
        "canvases": ((64, 96), (96, 64)),
        "min_side": 64,
        "max_side": 96,
        "augmentation": {"sizes": (32, 64), "max_side": 96},
        "backbone": small,
        "num_blocks": 1,
        "channels": 16,
    }
    run = Training(TrainingSettings(**data, **settings), tmp_path / "run")
    images, targets = next(iter(run.train_data))
    assert images.shape == (2, 64, 96, 3) and run.settings.epochs == 24
    run.model.run_eagerly = True  # one step, and no time to trace it
    logs = run.model.train_on_batch(images, targets, return_dict=True)
    assert 0 < logs["loss"] < 100
    follows = json.loads((tmp_path / "run" / "settings.json").read_text())["follows"]
    assert follows["peak_learning_rate"] == pytest.approx(1e-4 / 16)
    assert follows["images_per_update"] == 2 and follows["steps"] == 24


def test_options_on_the_command_line_win_over_the_recipe(settings_of):
    """Also one that equals the command's default, and only those that were given."""
    recipe = recipe_settings(X101)
    found = dataclasses.asdict(settings_of("--recipe", X101))
    assert {name: found[name] for name in recipe} == recipe
    options = ("--num-blocks", "1", "--batch-size", "4", "--backbone", "small")
    found = settings_of("--recipe", X101, *options, "epochs=3", "augmentation.horizontal_flip=0")
    assert (found.num_blocks, found.batch_size, found.backbone) == (1, 4, "small")
    assert (found.epochs, found.weight_decay) == (3, 1e-4)
    assert found.augmentation == {**recipe["augmentation"], "horizontal_flip": 0}
    assert settings_of("--recipe", X101, "--no-dyhead").num_blocks == 0


def test_a_square_takes_the_place_of_the_recipes_canvases(settings_of):
    found = settings_of("--recipe", X101, "--image-size", "512")
    assert (found.image_size, found.canvases) == (512, None)


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


def test_what_is_published_cannot_be_half_changed(data):
    with pytest.raises(ValueError, match="'anchor_scale'.* cannot be changed.*Received.*4.0"):
        TrainingSettings(**data, **recipe_settings(SWIN), anchor_scale=4.0)
    with pytest.raises(ValueError, match="exclude each other.*Received"):
        TrainingSettings(**data, **recipe_settings(SWIN), image_size=512)


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
    preprocessor = DetectionPreprocessor(image_size=(64, 64))
    settings = TrainingSettings(
        **data,
        backbone=TINY,
        backbone_weights=tmp_path / "resnet.safetensors",
        image_size=64,
        channels=16,
        max_level=5,
        anchor_scale=4.0,
        dtype="mixed_float16",
    ).resolve(CocoAnnotations(data["annotations"]))
    model = build_detector(settings, ["a"], 10, preprocessor)
    assert model.backbone.deformable_stages == (5,)
    np.testing.assert_array_equal(
        model.backbone.get_layer("layer4_0_conv2").kernel,
        state["layer4.0.conv2.weight"].transpose(2, 3, 1, 0),
    )
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert {layer.compute_dtype for layer in model.backbone.layers[1:]} == {"float16"}
    with pytest.raises(ValueError, match="given by its arguments.*'small'"):
        build_detector(dataclasses.replace(settings, backbone="small"), ["a"], 10, preprocessor)
    settings = dataclasses.replace(
        settings, backbone=TINY | {"batch_norm": "train"}, backbone_weights=None
    )
    model = build_detector(settings, ["a"], 10, preprocessor)
    assert isinstance(model.backbone.get_layer("bn1"), keras.layers.BatchNormalization)
    with pytest.raises(ValueError, match="must have a class of.*'ViT'"):
        build_detector(
            dataclasses.replace(settings, backbone={"class": "ViT"}), ["a"], 10, preprocessor
        )


def test_the_recipes_are_listed_with_their_ap_and_shown_with_their_settings():
    listed = CliRunner().invoke(app, ["recipes"]).output
    assert all(f"{name}\n    {load_recipe(name).title}\n" in listed for name in RECIPES)
    assert "49.8 AP, 2.0e18 multiply-adds" in listed
    shown = CliRunner().invoke(app, ["recipes", SWIN]).output
    assert "Differs from the published training:" in shown and "batch_size = 32" in shown
    unknown = CliRunner().invoke(app, ["recipes", "x50"])
    assert unknown.exit_code == 2 and SWIN in unknown.output
