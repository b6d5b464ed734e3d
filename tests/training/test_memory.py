"""The memory of a step is estimated before the first step."""

import pytest

from keras_dyhead.coco import CocoAnnotations
from keras_dyhead.training.data import build_preprocessor
from keras_dyhead.training.memory import step_memory
from keras_dyhead.training.model import build_model
from keras_dyhead.training.plan import resolve_settings


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
