"""DetectionPreprocessor against the published sizes and Pillow's pixels."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_dyhead.detectors.preprocessor import DetectionPreprocessor, resize_bilinear

# (image, resized, padded) sizes of the published 800 / 1333 / multiple-of-128 rule.
PUBLISHED_SIZES = [
    ((480, 640), (800, 1067), (896, 1152)),
    ((427, 640), (800, 1199), (896, 1280)),
    ((640, 427), (1199, 800), (1280, 896)),
    ((333, 500), (800, 1201), (896, 1280)),
    ((500, 333), (1201, 800), (1280, 896)),
    ((1080, 1920), (750, 1333), (768, 1408)),
    ((100, 1000), (133, 1333), (256, 1408)),
    ((800, 1333), (800, 1333), (896, 1408)),
    ((200, 264), (800, 1056), (896, 1152)),
    ((612, 612), (800, 800), (896, 896)),
    ((375, 1242), (402, 1333), (512, 1408)),
]


def picture(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), "uint8")
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.BICUBIC))


@pytest.mark.parametrize(("image", "resized", "padded"), PUBLISHED_SIZES)
def test_ints_and_tensors_give_the_published_sizes(image, resized, padded):
    preprocessor = DetectionPreprocessor()
    assert preprocessor.resized_size(*image) == resized
    assert preprocessor.canvas_size([resized]) == padded
    tensors = preprocessor.resized_size(*(tf.constant(side) for side in image))
    assert tuple(int(side) for side in tensors) == resized


@pytest.mark.parametrize("size", [(300, 200), (40, 60)], ids=["shrink", "enlarge"])
def test_pixels_are_pillows_normalized_and_padded_with_zeros(size):
    image = picture(*size)
    mean, std = (100.0, 110.0, 120.0), (50.0, 55.0, 60.0)
    preprocessor = DetectionPreprocessor(image_size=(96, 96), mean=mean, std=std)
    batch = preprocessor(image[None])
    (height, width), scale = np.asarray(batch["image_sizes"])[0], np.asarray(batch["scales"])[0]
    assert max(height, width) == 96
    np.testing.assert_allclose(scale, [height / size[0], width / size[1]], rtol=1e-6)
    pillow = np.asarray(Image.fromarray(image).resize((width, height), Image.BILINEAR))
    pixels = np.asarray(batch["images"])[0]
    back = pixels[:height, :width] * std + mean
    assert np.abs(back - pillow).max() <= 1.01  # Pillow rounds after each axis
    assert np.abs(back - pillow).mean() < 0.25
    assert not pixels[height:].any() and not pixels[:, width:].any()


def test_published_resizing_equals_pillows_bit_for_bit():
    image = picture(200, 300)
    pixels = DetectionPreprocessor(resizing="pillow").resize(image[None], (80, 120))
    pillow = Image.fromarray(image).resize((120, 80), Image.BILINEAR)
    np.testing.assert_array_equal(pixels[0], pillow)
    with pytest.raises(ValueError, match="'bicubic'"):
        DetectionPreprocessor(resizing="bicubic")


@pytest.mark.parametrize("size", [(30, 20), (90, 60), (30, 60), (45, 30)])
def test_enlarging_needs_no_antialiasing(size):
    """TensorFlow's antialiasing kernel gives the same pixels, in a graph of dynamic size."""
    images = np.stack([picture(45, 30, seed) for seed in range(2)]).astype("float32")
    resize = tf.function(resize_bilinear).get_concrete_function(
        tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((2,), tf.int32)
    )
    expected = tf.image.resize(images, size, antialias=True)
    for resized in (resize_bilinear(images, size), resize(tf.constant(images), tf.constant(size))):
        np.testing.assert_allclose(resized, expected, atol=1e-3)


def test_channels_are_reversed_for_bgr_backbones_before_the_mean():
    preprocessor = DetectionPreprocessor(mean=(1, 2, 3), std=(1, 2, 4), channel_order="BGR")
    red_green_blue = np.array([[[10, 20, 31]]], "uint8")
    np.testing.assert_array_equal(preprocessor.normalize(red_green_blue), [[[30, 9, 1.75]]])


def test_a_list_of_sizes_becomes_one_batch_padded_to_the_largest():
    preprocessor = DetectionPreprocessor(min_side=32, max_side=64, pad_multiple=16)
    images = [picture(50, 100), picture(100, 50, seed=1)]
    together = preprocessor(images)
    np.testing.assert_array_equal(together["image_sizes"], [[32, 64], [64, 32]])
    assert together["images"].shape == (2, 64, 64, 3)
    for i, image in enumerate(images):
        alone = preprocessor(image[None])["images"][0]
        inside = together["images"][i, : alone.shape[0], : alone.shape[1]]
        np.testing.assert_array_equal(inside, alone)


@pytest.mark.parametrize("image_size", [None, (64, 96)])
def test_dynamic_sizes_give_the_same_batch(image_size):
    preprocessor = DetectionPreprocessor(image_size, min_side=40, max_side=60, pad_multiple=32)
    images = np.stack([picture(50, 35, seed) for seed in range(2)])
    traced = tf.function(preprocessor).get_concrete_function(
        tf.TensorSpec((None, None, None, 3), tf.uint8)
    )
    if image_size:
        assert traced.structured_outputs["images"].shape[1:] == (*image_size, 3)
    expected, out = preprocessor(images), traced(tf.constant(images))
    for key in expected:
        np.testing.assert_allclose(out[key], expected[key], atol=1e-5)


def test_float32_under_a_mixed_policy_and_configuration_survives_saving():
    preprocessor = DetectionPreprocessor((32, 48), channel_order="BGR", dtype="mixed_bfloat16")
    assert preprocessor(np.zeros((1, 9, 9, 3)))["images"].dtype == tf.float32
    config = keras.saving.serialize_keras_object(preprocessor)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == preprocessor.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channel_order": "GBR"}, "'GBR'"),
        ({"min_side": 900, "max_side": 800}, "min_side=900"),
        ({"min_side": 0}, "min_side=0"),
        ({"min_side": "a"}, "min_side='a'"),
        ({"max_side": (900, 1)}, "max_side=.900, 1."),
        ({"image_size": (64,)}, "image_size=.64,."),
        ({"image_size": (64.5, 64)}, "image_size=.64.5, 64."),
        ({"image_size": 64}, "image_size=64"),
        ({"pad_multiple": 0}, "pad_multiple=0"),
        ({"mean": (1, 2)}, "mean=.1, 2."),
        ({"mean": "RGB"}, "mean='RGB'"),
        ({"mean": (1, 2, "3")}, "mean=.1, 2, '3'."),
        ({"std": (0, 1, 1)}, "std=.0, 1, 1."),
    ],
)
def test_invalid_arguments_are_in_the_message(arguments, message):
    with pytest.raises(ValueError, match=message):
        DetectionPreprocessor(**arguments)


def test_invalid_shapes_are_in_the_message():
    for wrong, shapes in (
        (np.zeros((2, 8, 8)), r"\(2, 8, 8\)"),
        (np.zeros((8, 9, 3)), r"\(8, 9, 3\)"),
        ([np.zeros((8, 9, 4))], r"\[\(8, 9, 4\)\]"),
        ([np.zeros((0, 9, 3))], r"\[\(0, 9, 3\)\]"),
        ([], r"\[\]"),
    ):
        with pytest.raises(ValueError, match=f"Received shapes: {shapes}"):
            DetectionPreprocessor()(wrong)
