"""Detection in one image at a time, with boxes in its own pixels."""

import re

import numpy as np
import pytest
from PIL import Image
from small_detector import by_hand, picture

from keras_dyhead.inference import Tiles, detect_images, image_detector, read_rgb


def test_boxes_are_in_pixels_of_images_of_any_size(small_model):
    detect = image_detector(small_model)
    for size in ((40, 90), (150, 70)):
        image = picture(*size)
        found, expected = detect(image), by_hand(small_model, image)
        assert len(found["labels"]) > 1
        np.testing.assert_array_equal(found["labels"], expected["labels"])
        np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-3)
        np.testing.assert_allclose(found["confidence"], expected["confidence"], atol=1e-5)
        assert found["boxes"].min() >= 0 and (found["boxes"].max(0) <= [*size[::-1]] * 2).all()


def test_files_and_their_pixels_give_the_same_detections(small_model, eager, tmp_path):
    Image.fromarray(picture(64, 64)).convert("L").save(tmp_path / "gray.png")
    pixels = read_rgb(tmp_path / "gray.png")
    assert pixels.shape == (64, 64, 3) and pixels.dtype == "uint8"
    file, array = detect_images(small_model, [tmp_path / "gray.png", pixels])
    for name, value in file.items():
        np.testing.assert_array_equal(array[name], value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="text.png is not a readable JPEG or PNG"):
        read_rgb(tmp_path / "text.png")
    with pytest.raises(ValueError, match="There is no file .*none.png"):
        read_rgb(tmp_path / "none.png")


def test_the_function_of_one_image_accepts_all_kinds_of_arrays(small_model, eager):
    rgb = picture(40, 90)
    detect = image_detector(small_model)
    assert detect.class_names == small_model.class_names
    floats, bytes_ = detect(rgb.astype("float32")), detect(rgb)
    for name, value in bytes_.items():
        np.testing.assert_array_equal(floats[name], value)
    with pytest.raises(ValueError, match="multiply"):
        detect_images(small_model, [rgb / 255])


@pytest.mark.parametrize("images", [picture(4, 5), "street.jpg", None])
def test_a_single_image_is_not_taken_for_a_list(images):
    with pytest.raises(TypeError, match="`images` must be a list of images or paths. Received: a"):
        detect_images(None, images)


@pytest.mark.parametrize("arguments", [{"tta": [1.0]}, {"tta": Tiles(96)}, {"tiles": 800}])
def test_views_and_tiles_of_other_classes_are_refused(small_model, arguments):
    ((name, value),) = arguments.items()
    received = re.escape(f"{name}={value!r}")
    with pytest.raises(ValueError, match=f"`{name}` must be .*: {received}"):
        image_detector(small_model, **arguments)


def test_a_model_that_is_no_detector_is_refused():
    with pytest.raises(TypeError, match="`model` must be a detector .* Received: model=None"):
        image_detector(None)
