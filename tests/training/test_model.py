"""The detector is the one that the settings describe."""

import pytest

from keras_dyhead.coco import CocoAnnotations
from keras_dyhead.detectors import DETECTORS, DetectionPreprocessor
from keras_dyhead.training.model import build_detector
from keras_dyhead.training.plan import resolve_settings


@pytest.mark.parametrize(
    ("name", "num_blocks"), [("retinanet", 0), *((name, 1) for name in DETECTORS)]
)
def test_the_detector_is_the_one_asked_for(data, tiny, name, num_blocks):
    settings = tiny(detector=name, num_blocks=num_blocks, start="released", alignment="published")
    settings = resolve_settings(settings, CocoAnnotations(data["annotations"]))
    preprocessor = DetectionPreprocessor(image_size=(64, 64))
    model = build_detector(settings, ["a", "b"], steps=10, preprocessor=preprocessor)
    assert type(model) is DETECTORS[name]
    assert model.class_names == ("a", "b") and model.num_classes == 2
    assert model.pyramid.max_level == 5 and model.pyramid.channels == 16
    if num_blocks:
        neck = model.neck.get_config()
        asked = {"num_blocks": 1, "channels": 16, "start": "released", "alignment": "published"}
        assert asked.items() <= neck.items()
    else:
        assert model.neck is None
    if settings.anchor_scale is not None:
        assert model.anchors.scale == settings.anchor_scale
