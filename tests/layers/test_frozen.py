"""Frozen layers inside a layer stay frozen after saving."""

import keras
import pytest

from keras_dyhead.layers import DyHeadNeck, FeaturePyramid
from keras_dyhead.layers.frozen import freeze_layers, frozen_layers

SHAPES = {"P3": (8, 8, 24), "P4": (4, 4, 24)}


def model_with(*layers):
    """A plain Keras model of a pyramid followed by these layers."""
    x = inputs = {level: keras.Input(shape, name=level) for level, shape in SHAPES.items()}
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def trainable(model):
    return {weight.path for weight in model.trainable_variables}


@pytest.mark.parametrize(
    "freeze",
    [
        lambda neck: setattr(neck, "trainable", False),
        lambda neck: setattr(neck.blocks[0], "trainable", False),
        lambda neck: setattr(neck.blocks[1].task_attention.squeeze, "trainable", False),
        lambda neck: setattr(neck.projections[0], "trainable", False),
        lambda neck: (
            setattr(neck.blocks[1], "trainable", False),
            setattr(neck.blocks[1].scale_attention, "trainable", True),
        ),
        lambda neck: None,
    ],
)
def test_a_plain_model_keeps_layers_frozen_inside_a_neck(freeze, tmp_path):
    neck = DyHeadNeck(2, 16, name="neck")
    model = model_with(neck)
    everything = len(model.weights)
    freeze(neck)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert trainable(again) == trainable(model)
    assert len(again.weights) == everything
    assert frozen_layers(again) == frozen_layers(model)


def test_layers_that_are_frozen_from_the_start_are_frozen_inside():
    assert not model_with(DyHeadNeck(1, 16, trainable=False)).trainable_variables
    assert not model_with(FeaturePyramid(16, max_level=4, trainable=False)).trainable_variables


def test_names_that_keras_generates_are_renumbered():
    """`dense_7` of one model is `dense_3` of the next."""

    def dense():
        return keras.Sequential([keras.Input((2,)), *(keras.layers.Dense(2) for _ in range(3))])

    model = dense()
    model.layers[1].trainable = False
    assert frozen_layers(model) == ["dense_1"]
    again = dense()
    assert [layer.name for layer in again.layers] != [layer.name for layer in model.layers]
    again.layers[2].trainable = False
    freeze_layers(again, frozen_layers(model))
    assert [layer.trainable for layer in again.layers] == [True, False, True]
    assert len(again.trainable_variables) == 4


def test_a_missing_layer_raises_a_warning():
    neck = DyHeadNeck(1, 16)
    neck.build([(None, 8, 8, 16), (None, 4, 4, 16)])
    with pytest.warns(UserWarning, match="no such layers to freeze: .'block_3'"):
        freeze_layers(neck, ["block_3", "block_0/task_attention"])
    trainable = [neck.blocks[0].trainable, neck.blocks[0].task_attention.trainable]
    assert trainable == [True, False]
