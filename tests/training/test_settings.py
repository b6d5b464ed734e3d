"""Invalid settings are refused, and the message names them."""

import dataclasses
import json

import numpy as np
import pytest

from keras_dyhead.training import TrainingSettings

SWIN = "dyhead_swint_atss_fpn_2x_ms"


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 20},
        {"num_blocks": -1},
        {"epochs": 0},
        {"epochs": 2.5},
        {"batch_size": "8"},
        {"detector": "yolo"},
        {"strategy": "tpu"},
        {"optimizer": "adam"},
        {"schedule": "linear"},
        {"learning_rate": 0.0},
        {"learning_rate": "fast"},
        {"val_split": "0.1"},
        {"momentum": None},
        {"augmentation": 3},
        {"canvases": 3},
        {"weights": 3},
        {"milestones": (0.8, 0.5)},
        {"milestones": (8, 11)},
        {"milestones": ()},
        {"ema_momentum": 1.0},
        {"no_decay": ("(",)},
        {"accumulate_steps": 0},
        {"clip_norm": -1.0},
        {"val_split": 1.0},
        {"keep": "first"},
        {"patience": 0},
    ],
)
def test_an_invalid_setting_is_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"`{name}` must.*Received"):
        TrainingSettings("images", "instances.json", **wrong)


@pytest.mark.parametrize(
    ("together", "message"),
    [
        ({"val_images": "only"}, "must be set together.*val_images=only"),
        ({"image_size": 64, "canvases": [[64, 96]]}, "cannot be combined.*image_size=64"),
        ({"strategy": "mirrored", "accumulate_steps": 2}, "1 with the strategy 'mirrored'.*=2"),
        ({"detector": SWIN, "anchor_scale": 4.0}, "fixes .'anchor_scale'.*4.0"),
        ({"patience": 3}, "needs validation images.*patience=3"),
        (
            {"val_split": 0.1, "val_images": "v", "val_annotations": "v.json"},
            "`val_split` and `val_images` cannot be combined.*val_split=0.1",
        ),
        ({"augmentation": {"flip": 0.5}}, r"horizontal_flip.*Received: \['flip'\]"),
    ],
)
def test_settings_that_cannot_be_combined_are_named(together, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings("images", "instances.json", **together)


def test_numbers_of_numpy_are_stored_as_json():
    given = {"epochs": np.int64(2), "ema_momentum": np.float64(0.5), "anchor_ratios": [np.int32(1)]}
    given |= {"augmentation": {"scale": (np.float32(0.5), 1.0)}}
    content = json.dumps(dataclasses.asdict(TrainingSettings("images", "instances.json", **given)))
    assert given | {"augmentation": {"scale": [0.5, 1.0]}} == {
        name: json.loads(content)[name] for name in given
    }


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_the_learning_rate_is_proportional_to_the_images_per_update(schedule):
    """Accumulated steps count as one update, and warm-up takes more steps."""

    def scaled(**changes):
        given = {"learning_rate": 0.01, "base_batch_size": 16, "batch_size": 2} | changes
        return TrainingSettings("a", "a.json", schedule=schedule, **given).scaled(1000)

    assert scaled(batch_size=16)["peak_learning_rate"] == 0.01
    assert scaled()["peak_learning_rate"] == 0.00125
    assert scaled(base_batch_size=None)["peak_learning_rate"] == 0.01
    several = scaled(accumulate_steps=8, warmup_steps=10)
    assert (several["peak_learning_rate"], several["warmup_steps"]) == (0.01, 80)
