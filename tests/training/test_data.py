"""The images to train on, and those to evaluate on."""

import json

import pytest

from keras_dyhead.coco import SHAPES
from keras_dyhead.training.data import build_preprocessor, open_data


def ids(settings):
    train, val = open_data(settings, build_preprocessor(settings), 0, 0, False)
    assert list(train.class_names) == list(val.class_names) == list(SHAPES)
    return [{image.id for image in data.annotations.images} for data in (train, val)]


def test_the_seed_chooses_the_held_out_images(tiny):
    train, val = ids(tiny(val_split=0.34))
    assert train | val == set(range(6)) and not train & val and len(val) == 2
    assert ids(tiny(val_split=0.34)) == [train, val] != ids(tiny(val_split=0.34, seed=1))
    assert ids(tiny()) == [set(range(6))] * 2


@pytest.mark.parametrize("part", [0.01, 0.99])
def test_a_split_with_an_empty_part_is_refused(tiny, part):
    with pytest.raises(
        ValueError, match=f"to train on and to evaluate on.*val_split={part} of 6 images"
    ):
        ids(tiny(val_split=part))


def test_broken_images_are_left_out_of_both_parts(tiny, data, tmp_path):
    content = json.loads(data["annotations"].read_text())
    content["images"][2]["file_name"] = "none.jpg"
    (tmp_path / "broken.json").write_text(json.dumps(content))
    settings = {"annotations": tmp_path / "broken.json", "on_error": "skip", "val_split": 0.4}
    train, val = ids(tiny(**settings))
    assert train | val == {0, 1, 3, 4, 5} and len(val) == 2


def test_an_epoch_is_not_resumed_beyond_the_end_of_the_data(tiny):
    arguments = {"initial_epoch": 1, "initial_step": 3, "several_devices": False}
    with pytest.raises(ValueError, match="stopped after 3 steps of an epoch.* now have 3.*Resume"):
        open_data(tiny(), build_preprocessor(tiny()), **arguments)
