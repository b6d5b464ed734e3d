"""Settings can be given as text. Names and types are checked."""

import re

import pytest

from keras_dyhead.training.overrides import merge_settings, parse_overrides


def test_values_are_json_or_strings():
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
        ("epochs=many", "`epochs` must be an integer or null. Received: epochs=many"),
        ("epochs=1.5", "`epochs` must be an integer or null"),
        ("batch_size=true", "`batch_size` must be an integer. Received"),
        ("learning_rate=fast", "`learning_rate` must be a number or null. Received"),
        ("jit_compile=1", "`jit_compile` must be true or false"),
        ("detector=3", "`detector` must be a string"),
        ("milestones=0.5", "`milestones` must be [a number, ...]"),
        ("canvases=[64,64]", "`canvases` must be [[an integer, ...], ...] or null"),
        ("augmentation=strong", "`augmentation` must be a dictionary or null"),
        ("backbone.depth=18", "no setting 'backbone.depth'. Did you mean one of ['backbone'"),
    ],
)
def test_names_and_types_are_checked_and_similar_names_suggested(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_overrides([text])


def test_an_entry_of_augmentation_can_follow_null():
    found = parse_overrides(["augmentation=null", "augmentation.hue=0.1"])
    assert found == {"augmentation": {"hue": 0.1}}


def test_later_settings_override_earlier_ones_and_augmentation_is_merged():
    recipe = {"canvases": ((64, 96),), "epochs": 12, "augmentation": {"hue": 0.1, "crop": 0.5}}
    merged = merge_settings(recipe, {"epochs": 3, "augmentation": {"hue": 0.2}}, {"image_size": 64})
    expected = {"epochs": 3, "augmentation": {"hue": 0.2, "crop": 0.5}, "image_size": 64}
    assert merged == expected
    assert merge_settings(recipe, {"augmentation": None})["augmentation"] is None
    assert merge_settings({"image_size": 64}, recipe) == recipe
