"""A view records what DyHead computes, wherever it is in a model."""

import keras
import numpy as np
import pytest
from small_detector import move_weights, picture

from keras_dyhead.layers import DyHeadNeck
from keras_dyhead.visualization.view import look_inside


def norms(pyramid):
    pyramid = pyramid.values() if isinstance(pyramid, dict) else pyramid
    return [np.linalg.norm(np.asarray(x)[0], axis=-1) for x in pyramid]


def assert_close(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())


def test_a_detector_of_this_package_uses_its_preprocessor(small_model, view):
    """100 x 130 becomes 64 x 83, padded to 64 x 96: 8 preprocessed pixels are 12.5 in the image."""
    image = picture(100, 130)
    assert view.levels == ["P3", "P4", "P5"] and view.alignment == "paper"
    np.testing.assert_allclose(view.strides[0], (8 * 100 / 64, 8 * 130 / 83), rtol=1e-6)
    np.testing.assert_allclose(view.strides[2], 4 * np.array(view.strides[0]), rtol=1e-6)
    assert [x.shape for x in view.before] == [(8, 12), (4, 6), (2, 3)]
    np.testing.assert_array_equal(view.image, image)

    neck = small_model.neck
    pyramid = keras.Model(small_model.inputs, neck.input)(
        small_model.preprocessor(image[None])["images"]
    )
    assert_close(view.before, norms(pyramid))
    assert len(view.blocks) == 2
    assert_close(view.blocks[1].norms["task"], norms(neck(pyramid)))


def test_look_inside_leaves_the_model_unchanged(small_model):
    image = picture(64, 64)
    neck = small_model.neck
    attributes, batch = set(vars(neck)), small_model.preprocessor(image[None])["images"]
    before = small_model(batch)["class_logits"]
    look_inside(small_model, image)
    assert set(vars(neck)) == attributes
    np.testing.assert_array_equal(small_model(batch)["class_logits"], before)


def plain_model(neck=None, size=None):
    images = keras.Input((size, size, 3))
    maps = [keras.layers.Conv2D(8, 3, 8, "same")(images)]
    maps += [keras.layers.AveragePooling2D(2, padding="same")(maps[0])]
    return keras.Model(images, neck(maps) if neck else maps)


def test_a_plain_model_gets_the_unchanged_image():
    """Maps in a list are named by their strides. The neck projects 8 channels to 16."""
    neck = DyHeadNeck(1, 16)
    model, image = plain_model(neck), picture(128, 256)
    move_weights(neck)
    view = look_inside(model, image)
    assert view.levels == ["P3", "P4"] and view.strides == [(8, 8), (16, 16)]
    assert_close(view.blocks[0].norms["task"], norms(model(image[None].astype("float32"))))


def test_an_image_is_fitted_into_a_fixed_input():
    view = look_inside(plain_model(DyHeadNeck(1, 16), 64), picture(100, 200))
    assert view.before[0].shape == (8, 8)
    np.testing.assert_allclose(view.strides[0], (25, 25))


def test_without_scale_attention_all_weights_are_one():
    view = look_inside(plain_model(DyHeadNeck(1, 16, use_scale_attention=False)), picture(64, 64))
    assert {v for weights in view.blocks[0].weights for v in weights.values()} == {1.0}


@pytest.mark.parametrize(
    ("model", "image", "message"),
    [
        (lambda: None, (64, 64, 3), "`model` must be a Keras model. Received: model=None"),
        (lambda: plain_model(), (64, 64, 3), "with none"),
        (lambda: plain_model(DyHeadNeck(0, 16)), (64, 64, 3), "with 0 blocks"),
        (lambda: plain_model(DyHeadNeck(1, 16)), (1, 64, 64, 3), r"shape \(1, 64, 64, 3\)"),
    ],
)
def test_models_and_images_without_a_view_are_refused(model, image, message):
    with pytest.raises(ValueError, match=message):
        look_inside(model(), np.zeros(image))
    with pytest.raises(ValueError, match="`preprocessor` must be .*='imagenet'"):
        look_inside(model(), np.zeros(image), "imagenet")


def test_a_model_of_pyramids_is_refused():
    pyramid = [keras.Input((8, 8, 16)), keras.Input((4, 4, 16))]
    model = keras.Model(pyramid, DyHeadNeck(1, 16)(pyramid))
    with pytest.raises(ValueError, match="must take images"):
        look_inside(model, np.zeros((64, 64, 3)))
