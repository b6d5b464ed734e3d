"""export_saved_model: files in, detections out, in a process without Keras."""

import json
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from detectors.scenes import SMALL
from export.small_detectors import (
    assert_same,
    by_hand,
    pictures,
    small_detector,
    small_retinanet,
)

from keras_dyhead.detectors import FCOS, DetectionPreprocessor
from keras_dyhead.export import export_saved_model
from keras_dyhead.layers import FeaturePyramid

# Loads SavedModels and runs them on files with only TensorFlow: importing Keras would fail.
FRESH_PROCESS = """
import json, sys
sys.modules.update(dict.fromkeys(["keras", "keras_dyhead", "tf_keras"]))
import tensorflow as tf

files = tf.stack([tf.io.read_file(file) for file in sys.argv[3:]])
for model in sys.argv[1:3]:
    out = tf.saved_model.load(model).signatures["serving_bytes"](files)
    print(json.dumps({name: value.numpy().tolist() for name, value in out.items()}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("detector", SMALL)
def test_a_process_without_keras_detects_the_same_in_files(detector, tmp_path):
    """Without DyHead for images of any size, and with it for a fixed size."""
    models = {None: small_detector(detector), (64, 96): small_detector(detector, num_blocks=1)}
    paths, images = pictures(tmp_path)
    folders = [str(tmp_path / str(size)) for size in models]
    for folder, (size, model) in zip(folders, models.items(), strict=True):
        export_saved_model(model, folder, size)
    process = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, *folders, *paths],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert process.returncode == 0, process.stderr
    for (size, model), line in zip(models.items(), process.stdout.splitlines(), strict=True):
        out = json.loads(line)
        canvas = DetectionPreprocessor(size) if size else None
        for i, image in enumerate(images):
            assert_same({key: out[key][i] for key in out}, by_hand(model, image, canvas))


def test_image_batches_give_boxes_in_their_own_pixels(forms, tmp_path):
    model = small_retinanet(num_blocks=1)
    _, (image, *_) = pictures(tmp_path)
    export_saved_model(model, tmp_path / "model")
    assert forms() == {"sparse"}  # it will run in TensorFlow
    detect = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    batch = np.stack([image, image[:, ::-1]]).astype("float32")
    out = {key: value.numpy() for key, value in detect(images=tf.constant(batch)).items()}
    for i in range(2):
        assert_same({key: out[key][i] for key in out}, by_hand(model, batch[i]))
    height, width = image.shape[:2]
    assert out["boxes"].min() >= 0
    assert out["boxes"][..., 2].max() <= width * 1.0001  # clipped to the image, not the padding
    assert out["boxes"][..., 3].max() <= height * 1.0001


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a detector without DyHead, exported with class names."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_saved_model(small_retinanet(), folder, class_names=["a", "b", "ü"])
    return folder


def test_detections_in_a_file_do_not_depend_on_its_batch(exported, tmp_path):
    paths, _ = pictures(tmp_path)
    detect = tf.saved_model.load(str(exported)).signatures["serving_bytes"]
    files = tf.stack([tf.io.read_file(path) for path in paths])
    together, alone = detect(files), detect(files[1:2])
    for key in alone:
        np.testing.assert_allclose(together[key][1], alone[key][0], atol=1e-3)
    assert detect(tf.constant([], tf.string))["boxes"].shape == (0, 20, 4)


def test_no_images_give_no_detections(tmp_path):
    """Also if layers after a convolution need the shape that its output should have."""
    images = x = keras.Input((64, 64, 3))
    for _ in range(3):
        x = keras.layers.Conv2D(16, 3, 2, "same", use_bias=False)(x)
        x = keras.layers.BatchNormalization()(x)
    backbone = keras.Model(images, {"P3": x})
    pyramid = FeaturePyramid(16, min_level=3, max_level=3)
    model = FCOS(backbone, 2, neck=None, pyramid=pyramid, image_shape=(64, 64, 3))
    export_saved_model(model, tmp_path / "model")
    signatures = tf.saved_model.load(str(tmp_path / "model")).signatures
    for found in (
        signatures["serving_default"](images=tf.zeros((0, 40, 70, 3))),
        signatures["serving_bytes"](files=tf.constant([], tf.string)),
    ):
        assert found["boxes"].shape == (0, 100, 4) and found["num_detections"].shape == (0,)


def test_class_names_are_exported(exported):
    names = exported / "assets.extra" / "class_names.txt"
    assert names.read_text("utf-8").splitlines() == ["a", "b", "ü"]


def test_an_export_without_class_names_removes_earlier_ones(tmp_path):
    names = tmp_path / "assets.extra" / "class_names.txt"
    names.parent.mkdir()
    names.write_text("of another model")
    export_saved_model(small_retinanet(), tmp_path)
    assert not names.exists()


def test_invalid_arguments_are_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file cannot be written: .*file is not a writable folder"):
        export_saved_model(small_retinanet(), tmp_path / "file")
    with pytest.raises(TypeError, match="Sequential"):
        export_saved_model(keras.Sequential(), tmp_path)
    with pytest.raises(ValueError, match="2 names"):
        export_saved_model(small_retinanet(), tmp_path, class_names=["a", "b"])
    for name, value in (
        ("class_names", "abc"),
        ("class_names", 3),
        ("image_size", 96),
        ("image_size", (100,)),
        ("image_size", (96.5, 96)),
        ("preprocessor", "imagenet"),
    ):
        received = re.escape(f"{name}={value!r}")
        with pytest.raises(ValueError, match=f"`{name}` must be .*: {received}"):
            export_saved_model(small_retinanet(), tmp_path, **{name: value})
    with pytest.raises(ValueError, match=r"\(64, 64\)"):
        export_saved_model(small_retinanet(image_shape=(64, 64, 3)), tmp_path, (64, 96))
