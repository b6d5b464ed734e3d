"""Files that become unreadable after they were checked, and arrays as images."""

import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from small_detector import picture

from keras_dyhead.coco import CocoAnnotations, image_files, load_coco
from keras_dyhead.coco.image_files import as_rgb


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def overwrite(path):
    path.write_text("no picture")


def delete(path):
    path.unlink()


def resize(path):
    Image.new("RGB", (20, 30)).save(path)


DAMAGES = [truncate, overwrite, delete, resize]


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
@pytest.mark.parametrize(
    "suffix, mode",
    [
        *(("png", mode) for mode in ("RGB", "L", "RGBA", "LA", "P", "1", "I;16")),
        *(("jpg", mode) for mode in ("RGB", "L", "CMYK")),
        *(("bmp", mode) for mode in ("RGB", "L", "RGBA", "P")),
        *(("webp", mode) for mode in ("RGB", "RGBA")),
    ],
)
def test_every_kind_of_image_becomes_rgb(tmp_path, noise, suffix, mode, backend, monkeypatch):
    """With TensorFlow, and with Pillow, which decodes on other backends."""
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    smooth = Image.fromarray(noise(4, 5)).resize((30, 24), Image.BICUBIC)
    path = tmp_path / f"a.{suffix}"
    if mode == "I;16":
        smooth = smooth.convert("L")
        Image.fromarray(np.asarray(smooth).astype("uint16") * 256 + 200).save(path)
    elif mode == "P":
        smooth.quantize(32).save(path, **({"transparency": 3} if suffix == "png" else {}))
    else:
        smooth.convert(mode).save(path)
    with Image.open(path) as image:
        expected = np.asarray((smooth if mode == "I;16" else image).convert("RGB"), "float32")
    # CMYK can be read in several ways.
    found = image_files.read_rgb(path)
    assert found.dtype == "uint8"
    np.testing.assert_allclose(found, expected, atol=6 if mode == "CMYK" else 0)


@pytest.fixture
def five(coco, noise):
    """Five images of 30x20. The third one can be damaged after the check."""
    for number in range(5):
        coco.add_box(coco.add_image(noise(20, 30) + 10, f"{number}.jpg"), [1, 2, 9, 8])
    coco.write()
    return coco


@pytest.mark.parametrize("training", [True, False])
def test_a_file_that_becomes_unreadable_ends_the_iteration_and_is_named(five, training):
    dataset = load_coco(five.folder, five.json, 2, (20, 30), training=training, seed=0)
    bad, whole = five.folder / "3.jpg", (five.folder / "3.jpg").read_bytes()
    for damage in DAMAGES:
        damage(bad)
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"images/3\.jpg"):
            list(dataset)
    bad.write_bytes(whole)
    assert len(list(dataset)) == 3


def test_files_that_become_unreadable_become_black_images_without_boxes(five, capfd):
    dataset = load_coco(five.folder, five.json, 5, (20, 40), on_error="skip")
    ((before, _),) = [(images.numpy(), targets) for images, targets in dataset]
    for number, damage in enumerate(DAMAGES, start=1):
        damage(five.folder / f"{number}.jpg")
    ((after, targets),) = [(images.numpy(), targets) for images, targets in dataset]
    told = capfd.readouterr().err
    assert all(str(five.folder / f"{number}.jpg") in told for number in range(1, 5))
    np.testing.assert_array_equal(after[0], before[0])
    assert not after[1:].any() and before[1:].any((1, 2, 3)).all()
    assert targets["labels"].numpy().ravel().tolist() == [0, -1, -1, -1, -1]
    assert (targets["boxes"].numpy()[1:] == -1).all()
    assert targets["image_id"].numpy().tolist() == [1, 2, 3, 4, 5]
    assert (targets["original_size"].numpy() == [20, 30]).all()


def test_the_record_of_checked_files_is_used_until_one_of_them_changes(five, tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "_MANY", 5)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    decoded, found = [], []
    inspect = image_files._inspect

    def count(path, size, decode):
        decoded.append(path.name)
        return inspect(path, size, decode)

    monkeypatch.setattr(image_files, "_inspect", count)
    overwrite(five.folder / "1.jpg")

    def open_it():
        decoded.clear()
        with pytest.warns(UserWarning, match=r"image 2 \(1.jpg\)"):
            found.append(load_coco(five.folder, five.json, on_error="skip"))
        return sorted(decoded)

    every = [f"{number}.jpg" for number in range(5)]
    assert open_it() == every
    assert open_it() == []  # the record includes the fault
    (record,) = (tmp_path / "home" / "keras_dyhead" / "verified").iterdir()
    assert list(json.loads(record.read_text())) == ["1"]
    status = (five.folder / "4.jpg").stat()
    os.utime(five.folder / "4.jpg", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert open_it() == every
    # Annotations with another size, or none, need another check.
    five.images[0]["width"] = 29
    five.write()
    assert open_it() == every
    del five.images[3]["width"], five.images[0]["width"]
    five.write()
    assert open_it() == every
    assert open_it() == []
    assert [(i.height, i.width) for i in found[-1].annotations.images] == [(20, 30)] * 4
    for other in record.parent.iterdir():
        other.write_text("{damaged")
    assert open_it() == every


@pytest.mark.parametrize("name", ["a\0.jpg", "\ud800.jpg", "a" * 5000, "file://[a.jpg"])
def test_a_name_that_no_file_can_have_is_reported(five, tmp_path, monkeypatch, name):
    monkeypatch.setattr(image_files, "_MANY", 5)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    five.images[1]["file_name"] = name
    with pytest.raises(ValueError, match="image 2 .*no such file"):
        CocoAnnotations(five.write(), five.folder)


def test_an_unwritable_home_does_no_harm(five, tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "_MANY", 5)
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    assert len(load_coco(five.folder, five.json, 1)) == 5


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
def test_unambiguous_arrays_are_read(image):
    rgb = picture(4, 5)
    found = as_rgb(image(rgb))
    assert found.dtype == "uint8"
    np.testing.assert_array_equal(found, rgb)


def test_gray_arrays_are_read_and_black_works_in_any_dtype():
    gray = picture(4, 5)[..., 0]
    for image in (gray, gray[..., None]):
        np.testing.assert_array_equal(as_rgb(image), np.dstack([gray] * 3))
    assert not as_rgb(np.zeros((4, 5, 3))).any()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "HSV"])
def test_colors_of_pillow_images_of_every_mode_are_read(mode):
    image = Image.new("RGB", (5, 4), (255, 0, 0)).convert(mode)
    image.info["transparency"] = 0
    found = as_rgb(image)
    assert found.shape == (4, 5, 3) and np.abs(found - [255.0, 0, 0]).max() <= 2


@pytest.mark.parametrize(
    ("mode", "white"),
    [("1", 1), ("L", 255), ("LA", (255, 9)), ("I;16", 65_535), ("I", 255), ("F", 255.0)],
)
def test_white_of_pillow_images_of_every_mode_is_read(mode, white):
    found = as_rgb(Image.new(mode, (5, 4), white))
    assert found.shape == (4, 5, 3) and (found == 255).all()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((4, 5, 3), 0.5), "multiply values from 0 to 1 by 255.*from 0.5 to 0.5"),
        (np.ones((4, 5, 3), "float32"), "multiply values from 0 to 1 by 255"),
        (np.full((4, 5, 3), 256, "uint16"), "values from 0 to 255. Received: uint16"),
        (np.full((4, 5, 3), -1.0), "values from 0 to 255"),
        (np.full((4, 5, 3), np.nan), "values from 0 to 255"),
        (np.ones((4, 5, 3), bool), "values from 0 to 255"),
        (np.zeros((3, 4, 5), "uint8"), r"RGB \(H, W, 3\).*shape \(3, 4, 5\)"),
        (np.zeros((1, 4, 5, 3), "uint8"), r"RGB \(H, W, 3\)"),
        (np.zeros((0, 5, 3), "uint8"), r"RGB \(H, W, 3\)"),
        (np.full((4, 5, 3), None), r"RGB \(H, W, 3\).*object"),
        (np.full((4, 5, 3), "9"), r"RGB \(H, W, 3\).*U1"),
    ],
)
def test_ambiguous_arrays_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        as_rgb(image)
