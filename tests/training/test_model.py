"""The detector is the one that the settings describe; its memory is estimated before a step."""

import pytest

from keras_dyhead.coco import CocoAnnotations
from keras_dyhead.detectors import DETECTORS, DetectionPreprocessor
from keras_dyhead.training.data import build_preprocessor
from keras_dyhead.training.model import build_detector, build_model, step_memory
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
    assert model.pyramid.min_level == (2 if name == "faster-rcnn" else 3)
    if num_blocks:
        neck = model.neck.get_config()
        asked = {"num_blocks": 1, "channels": 16, "start": "released", "alignment": "published"}
        assert asked.items() <= neck.items()
    else:
        assert model.neck is None
    if settings.anchor_scale is not None:
        assert model.anchors.scale == settings.anchor_scale


@pytest.fixture
def memory_of(tiny, data):
    def memory_of(**changes):
        settings = resolve_settings(tiny(**changes), CocoAnnotations(data["annotations"]))
        model = build_model(settings, ["a"], build_preprocessor(settings))
        return step_memory(model, settings), model.count_params()

    return memory_of


def test_memory_is_that_of_weights_and_of_maps_in_proportion_to_images(memory_of):
    (one, parameters), (two, _), (four, _) = (memory_of(batch_size=size) for size in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one), rel=1e-3)
    state = 2 * one - two  # without images: weights, gradients, two moments
    assert state == pytest.approx(1.3 * 16 * parameters, rel=1e-3)
    canvas, _ = memory_of(batch_size=1, canvases=((64, 128), (64, 64)), image_size=None)
    assert canvas - state == pytest.approx(2 * (one - state), rel=0.02)
    assert memory_of(batch_size=1, num_blocks=1)[0] > one
