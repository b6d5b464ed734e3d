"""One image at a time, each as its model wants it, boxes in its own pixels."""

import numpy as np
import pytest
from PIL import Image
from small_detector import by_hand, picture

from keras_dyhead.inference import detect_images, image_detector, read_rgb
from keras_dyhead.inference.one_image import as_rgb


def test_images_of_any_size_get_boxes_in_their_own_pixels(small_model):
    detect = image_detector(small_model)
    for size in ((40, 90), (150, 70)):
        image = picture(*size)
        found, expected = detect(image), by_hand(small_model, image)
        assert len(found["labels"]) > 1
        np.testing.assert_array_equal(found["labels"], expected["labels"])
        np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-3)
        np.testing.assert_allclose(found["confidence"], expected["confidence"], atol=1e-5)
        assert found["boxes"].min() >= 0 and (found["boxes"].max(0) <= [*size[::-1]] * 2).all()


def test_files_are_detected_in_as_their_pixels_are(small_model, eager, tmp_path):
    Image.fromarray(picture(64, 64)).convert("L").save(tmp_path / "grey.png")
    pixels = read_rgb(tmp_path / "grey.png")
    assert pixels.shape == (64, 64, 3) and pixels.dtype == "uint8"
    file, array = detect_images(small_model, [tmp_path / "grey.png", pixels])
    for name, value in file.items():
        np.testing.assert_array_equal(array[name], value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="text.png is no readable JPEG or PNG"):
        read_rgb(tmp_path / "text.png")
    with pytest.raises(ValueError, match="There is no file .*none.png"):
        read_rgb(tmp_path / "none.png")


@pytest.mark.parametrize(
    "image",
    [
        lambda rgb: rgb.astype("float32"),
        lambda rgb: rgb.astype("int64"),
        lambda rgb: rgb.astype("uint16"),
        lambda rgb: rgb - 0.4 * (rgb > 0),
        lambda rgb: np.dstack([rgb, np.full(rgb.shape[:2], 7, "uint8")]),
        lambda rgb: Image.fromarray(rgb),
        lambda rgb: rgb.tolist(),
    ],
)
def test_arrays_with_one_meaning_are_read(image):
    rgb = picture(4, 5)
    found = as_rgb(image(rgb))
    assert found.dtype == "uint8"
    np.testing.assert_array_equal(found, rgb)


def test_grey_arrays_are_read_and_black_is_black_in_any_type():
    grey = picture(4, 5)[..., 0]
    for image in (grey, grey[..., None]):
        np.testing.assert_array_equal(as_rgb(image), np.dstack([grey] * 3))
    assert not as_rgb(np.zeros((4, 5, 3))).any()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((4, 5, 3), 0.5), "multiply those from 0 to 1 by 255.*from 0.5 to 0.5"),
        (np.ones((4, 5, 3), "float32"), "multiply those from 0 to 1 by 255"),
        (np.full((4, 5, 3), 256, "uint16"), "values from 0 to 255. Received: uint16"),
        (np.full((4, 5, 3), -1.0), "values from 0 to 255"),
        (np.full((4, 5, 3), np.nan), "values from 0 to 255"),
        (np.ones((4, 5, 3), bool), "values from 0 to 255"),
        (np.zeros((3, 4, 5), "uint8"), r"RGB \(H, W, 3\).*shape \(3, 4, 5\)"),
        (np.zeros((1, 4, 5, 3), "uint8"), r"RGB \(H, W, 3\)"),
        (np.zeros((0, 5, 3), "uint8"), r"RGB \(H, W, 3\)"),
    ],
)
def test_arrays_without_a_clear_meaning_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        as_rgb(image)


def test_the_function_of_one_image_takes_what_is_read(small_model, eager):
    rgb = picture(40, 90)
    detect = image_detector(small_model)
    assert detect.class_names == small_model.class_names
    floats, bytes_ = detect(rgb.astype("float32")), detect(rgb)
    for name, value in bytes_.items():
        np.testing.assert_array_equal(floats[name], value)
    with pytest.raises(ValueError, match="multiply"):
        detect_images(small_model, [rgb / 255])
