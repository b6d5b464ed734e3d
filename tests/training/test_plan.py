"""Defaults follow from the data, or from the published model."""

import json

import numpy as np

from keras_dyhead.coco import CocoAnnotations
from keras_dyhead.training.plan import planned_config, resolve_settings


def test_settings_follow_the_data(data, tiny):
    annotations = CocoAnnotations(data["annotations"])
    boxes = [a["bbox"] for a in json.loads(data["annotations"].read_text())["annotations"]]
    smallest_tenth = np.quantile([(w * h) ** 0.5 * 256 / 64 for _, _, w, h in boxes], 0.1)
    scale = np.clip(smallest_tenth / 8, 1, 4)
    for detector, expected in (
        ("retinanet", scale),
        ("faster-rcnn", 2 * scale),
        ("atss", 2 * scale),
    ):
        settings = tiny(detector=detector, batch_size=4, image_size=256)
        settings = resolve_settings(settings, annotations)
        assert settings.epochs == 300  # two steps each
        assert settings.anchor_scale == round(float(expected), 2)
    assert resolve_settings(tiny(detector="fcos"), annotations).anchor_scale is None


def test_the_plan_of_a_published_model_has_all_its_arguments(tiny):
    asked = {"detector": "dyhead_r50_atss_fpn_1x", "canvases": ((64, 96),), "num_blocks": None}
    settings = tiny(**asked, image_size=None, max_level=None, channels=None)
    config = json.loads(json.dumps(planned_config(settings)))
    found = config["settings"]
    assert found["backbone"] == {
        "class": "ResNetBackbone",
        **{"depth": 50, "style": "caffe", "batch_norm": "frozen"},
    }
    assert (found["num_blocks"], found["channels"]) == (6, 256)
    assert (found["alignment"], found["start"]) == ("published", "released")
    assert (found["min_side"], found["max_side"]) == (800, 1333)
    assert config["follows"]["published"]["anchors"]["scale"] == 8.0
    assert config["follows"]["preprocessing"]["channel_order"] == "BGR"
