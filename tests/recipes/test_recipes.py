"""Recipes are complete, and train the published models as their authors did."""

import dataclasses
import gzip
import json
from pathlib import Path

import pytest

from keras_dyhead import backbones
from keras_dyhead.checkpoints import COMPOSED, PUBLISHED
from keras_dyhead.checkpoints.load_checkpoint import detector_parts
from keras_dyhead.coco import COCO_CLASSES, CocoAnnotations, draw_shapes
from keras_dyhead.detectors import DETECTORS
from keras_dyhead.optimizers.sgd import is_named
from keras_dyhead.recipes import RECIPES, load_recipe
from keras_dyhead.training import Training, TrainingSettings, backbone
from keras_dyhead.training.data import build_preprocessor
from keras_dyhead.training.model import build_model
from keras_dyhead.training.plan import resolve_settings

NAMES = Path(__file__).parents[1] / "checkpoints" / "data" / "tensor_names.json.gz"
X101 = "atss_x101-64x4d-dcnv2_fpn_dyhead"
SWIN = "dyhead_swint_atss_fpn_2x_ms"
SMALL = {
    "embed_dim": 12,
    "depths": (1, 2, 1, 1),
    "num_heads": (1, 1, 2, 2),
    "window_size": 4,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    path = draw_shapes(folder, 2, image_size=64, empty_fraction=0)
    return {"images": folder / "images", "annotations": path}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_all_fields_and_the_ap_of_the_published_model(name, data):
    recipe = load_recipe(name)
    assert recipe.COMMAND.startswith(f"keras-dyhead train --recipe {name} --out ")
    texts = (recipe.__doc__, recipe.WEIGHTS, recipe.HARDWARE, recipe.AP_SOURCE, recipe.SOURCE)
    assert all(isinstance(text, str) for text in (*texts, *recipe.DIFFERENCES))
    assert name in recipe.SOURCE or name == X101
    paper = 54.0  # from its abstract
    assert ((PUBLISHED | COMPOSED)[name].ap or paper) == recipe.AP
    json.dumps(dataclasses.asdict(TrainingSettings(**data, **recipe.SETTINGS)))


def test_the_cost_counts_all_steps():
    """Three times inference: forward, and twice as much backward."""
    assert f"{load_recipe(SWIN).COST:.1e}" == "2.0e+18"
    assert load_recipe(X101).COST == 3 * 418e9 * 24 * 118_287


def test_there_is_a_recipe_for_every_published_model():
    assert set(RECIPES) == {*PUBLISHED, X101}
    assert all(recipe.SETTINGS["detector"] == name for name, recipe in RECIPES.items())


@pytest.fixture
def recorded(monkeypatch):
    """Makes detector and backbone classes return their names and arguments."""

    def recorder(name):
        return lambda **arguments: {"class": name, **arguments}

    for name in DETECTORS:
        monkeypatch.setitem(DETECTORS, name, recorder(name))
    for name in ("ResNetBackbone", "SwinBackbone"):
        monkeypatch.setattr(backbones, name, recorder(name))
        monkeypatch.setitem(backbone._CLASSES, name, recorder(name))
    monkeypatch.setattr(backbone, "load_backbone_weights", lambda model, path: model)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_builds_the_published_model(name, data, recorded):
    """With the same classes, arguments and preprocessing."""
    settings = TrainingSettings(
        **data, **load_recipe(name).SETTINGS, backbone_weights="imagenet.pth"
    )
    settings = resolve_settings(settings, CocoAnnotations(data["annotations"]))
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
    """They are multiples of the published padding, and all are needed."""
    settings = TrainingSettings(**data, **load_recipe(name).SETTINGS)
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


def test_a_smaller_recipe_trains(data, tmp_path):
    """One step of the Swin recipe: canvases of two shapes, random sizes, scaled learning rate."""
    settings = load_recipe(SWIN).SETTINGS | {
        "batch_size": 2,
        "canvases": ((64, 96), (96, 64)),
        "min_side": 64,
        "max_side": 96,
        "augmentation": {"sizes": (32, 64), "max_side": 96},
        "backbone": {"class": "SwinBackbone", **SMALL, "depths": (1, 1, 1, 1)},
        "num_blocks": 1,
        "channels": 16,
    }
    run = Training(TrainingSettings(**data, **settings), tmp_path / "run")
    images, targets = next(iter(run.train_data))
    assert images.shape == (2, 64, 96, 3) and run.settings.epochs == 24
    run.model.run_eagerly = True  # tracing takes longer than one step
    logs = run.model.train_on_batch(images, targets, return_dict=True)
    assert 0 < logs["loss"] < 100
    follows = json.loads((tmp_path / "run" / "settings.json").read_text())["follows"]
    assert follows["peak_learning_rate"] == pytest.approx(1e-4 / 16)
    assert follows["images_per_update"] == 2 and follows["steps"] == 24


# Names of PyTorch tensors that do not decay in the published training runs:
# `"bias" in key` in Microsoft's train_net.py; `custom_keys` in OpenMMLab's configuration.
PUBLISHED_RULES = {
    "dyhead_swint_atss_fpn_2x_ms": lambda name: "bias" in name,
    "atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco": lambda name: (
        "absolute_pos_embed" in name or "relative_position_bias_table" in name or "norm" in name
    ),
}


@pytest.mark.parametrize("recipe", PUBLISHED_RULES)
def test_the_weights_that_do_not_decay_are_those_of_the_published_run(recipe):
    """By the names of the original tensors, in a model with all kinds of them."""
    settings = load_recipe(recipe).SETTINGS
    record = PUBLISHED[settings["detector"]]
    small = {**record.backbone_arguments, **SMALL}
    record = dataclasses.replace(
        record,
        backbone_arguments=small,
        neck={**record.neck, "num_blocks": 1, "channels": 16},
    )
    model = record.build()
    names = json.loads(gzip.decompress(NAMES.read_bytes()))[settings["detector"]]
    tensor_names = {
        id(variable): part.tensor_name(path)
        for part in detector_parts(model, record, names)
        for path, variable in part.weights.items()
    }
    rule = PUBLISHED_RULES[recipe]
    expected = {v.path for v in model.trainable_variables if rule(tensor_names[id(v)])}
    spared = {v.path for v in model.trainable_variables if is_named(v, settings["no_decay"])}
    assert spared == expected
    assert 20 < len(spared) < len(model.trainable_variables) - 20


def test_recipes_of_resnets_let_every_weight_decay():
    """Neither released training run has an exception for them."""
    resnets = [r.SETTINGS for name, r in RECIPES.items() if "r50" in name or "x101" in name]
    assert len(resnets) == 6
    assert not any(settings.get("no_decay") for settings in resnets)
    assert all(settings["weight_decay"] == 1e-4 for settings in resnets)
