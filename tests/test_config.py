"""What a training is made of can be given as text, is checked, and is written down completely."""

import dataclasses
import json
import re

import pytest
from typer.testing import CliRunner

from keras_dyhead.cli import app
from keras_dyhead.coco import draw_shapes
from keras_dyhead.training import (
    Training,
    TrainingSettings,
    merge_settings,
    parse_overrides,
    planned_config,
)


@pytest.fixture
def data(tmp_path):
    path = draw_shapes(tmp_path / "data", 5, image_size=64, empty_fraction=0)
    return {"images": tmp_path / "data" / "images", "annotations": path}


def test_values_are_json_or_text():
    texts = [
        *("epochs=3", "clip_norm=null", "jit_compile=true", "detector=fcos", "no_decay=[]"),
        *("learning_rate=1", "canvases=[[64,96],[96,64]]", 'backbone={"depth": 18}'),
        *("augmentation.hue=0.1", "augmentation.sizes=[32,64]", "val_images=a=b"),
    ]
    assert parse_overrides(texts) == {
        "epochs": 3,
        "clip_norm": None,
        "jit_compile": True,
        "detector": "fcos",
        "no_decay": [],
        "learning_rate": 1,
        "canvases": [[64, 96], [96, 64]],
        "backbone": {"depth": 18},
        "augmentation": {"hue": 0.1, "sizes": [32, 64]},
        "val_images": "a=b",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learnig_rate=0.1", "no setting 'learnig_rate'. Did you mean one of ['learning_rate'"),
        ("epochs", "name=value. Received: 'epochs'"),
        ("epochs=many", "`epochs` must be a whole number or null. Received: epochs=many"),
        ("epochs=1.5", "`epochs` must be a whole number or null"),
        ("batch_size=true", "`batch_size` must be a whole number. Received"),
        ("learning_rate=fast", "`learning_rate` must be a number. Received"),
        ("jit_compile=1", "`jit_compile` must be true or false"),
        ("detector=3", "`detector` must be a text"),
        ("milestones=0.5", "`milestones` must be [a number, ...]"),
        ("canvases=[64,64]", "`canvases` must be [[a whole number, ...], ...] or null"),
        ("augmentation=strong", "`augmentation` must be a dictionary or null"),
        ("backbone.depth=18", "no setting 'backbone.depth'. Did you mean one of ['backbone'"),
    ],
)
def test_names_and_types_are_checked_and_the_nearest_name_is_told(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_overrides([text])


def test_an_augmentation_that_does_not_exist_is_told_the_known_ones():
    with pytest.raises(ValueError, match="horizontal_flip.*Received: \\['flip'\\]"):
        TrainingSettings("images", "instances.json", augmentation={"flip": 0.5})


def test_gradients_are_not_accumulated_on_several_devices():
    """Keras cannot: its update would begin within a condition."""
    with pytest.raises(ValueError, match="1 with the strategy 'mirrored'.*accumulate_steps=2"):
        TrainingSettings("images", "instances.json", strategy="mirrored", accumulate_steps=2)


def test_the_last_settings_win_and_augmentation_entry_by_entry():
    recipe = {"canvases": ((64, 96),), "epochs": 12, "augmentation": {"hue": 0.1, "crop": 0.5}}
    merged = merge_settings(recipe, {"epochs": 3, "augmentation": {"hue": 0.2}}, {"image_size": 64})
    expected = {"epochs": 3, "augmentation": {"hue": 0.2, "crop": 0.5}, "image_size": 64}
    assert merged == expected
    assert merge_settings(recipe, {"augmentation": None})["augmentation"] is None
    assert merge_settings({"image_size": 64}, recipe) == recipe


def test_the_printed_configuration_is_the_one_saved_beside_the_run(data, tmp_path):
    """Every setting with its value, what follows from them, class names and versions."""
    options = ["--batch-size", 2, "--image-size", 64, "--channels", 16, "max_level=5", "epochs=4"]
    options += ["optimizer=sgd", "schedule=step", "base_batch_size=16", "learning_rate=0.01"]
    paths = [x for name, path in data.items() for x in (f"--{name}", path)]
    arguments = [str(x) for x in ("train", *paths, *options, "--print-config")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)

    names = [field.name for field in dataclasses.fields(TrainingSettings)]
    assert list(printed["settings"]) == names
    given = {"batch_size": 2, "image_size": 64, "channels": 16, "max_level": 5, "epochs": 4}
    filled = {"backbone": "small", "num_blocks": 1, "alignment": "paper", "eval_every": 1}
    assert given.items() <= printed["settings"].items()
    assert filled.items() <= printed["settings"].items()
    follows = printed["follows"]
    assert (follows["steps_per_epoch"], follows["steps"]) == (3, 12)
    assert follows["peak_learning_rate"] == pytest.approx(0.00125)
    assert (follows["warmup_steps"], follows["milestone_steps"]) == (1, [8, 11])
    assert follows["preprocessing"]["image_size"] == [64, 64]
    assert set(printed["versions"]) == {
        *("keras_dyhead", "keras", "keras_hub", "tensorflow", "numpy", "python"),
    }

    settings = {name: value for name, value in printed["settings"].items() if value is not None}
    Training(TrainingSettings(**settings), tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert saved == printed


def test_a_published_model_shows_all_that_it_is_made_of(data):
    settings = TrainingSettings(**data, detector="dyhead_r50_atss_fpn_1x", canvases=((64, 96),))
    config = json.loads(json.dumps(planned_config(settings)))
    assert config["settings"]["backbone"] == {
        "class": "ResNetBackbone",
        **{"depth": 50, "style": "caffe", "batch_norm": "frozen"},
    }
    assert config["follows"]["published"]["anchors"]["scale"] == 8.0
    assert config["follows"]["preprocessing"]["channel_order"] == "BGR"
    assert (config["settings"]["min_side"], config["settings"]["max_side"]) == (800, 1333)


def test_a_setting_given_twice_or_a_missing_folder_is_refused(data):
    paths = [str(x) for name, path in data.items() for x in (f"--{name}", path)]
    result = CliRunner().invoke(app, ["train", *paths, "--epochs", "3", "epochs=4", "--out", "run"])
    assert result.exit_code == 2 and "given twice" in result.output and "epochs" in result.output
    result = CliRunner().invoke(app, ["train", *paths])
    assert result.exit_code == 2 and "--out" in result.output
