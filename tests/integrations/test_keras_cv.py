"""What is specific to the KerasCV adapters."""

import importlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from integrations import tiny_detectors

keras_cv = pytest.importorskip("keras_cv")

from keras_dyhead.integrations.keras_cv import (  # noqa: E402
    DyHeadFeaturePyramid,
    DyHeadYOLOV8Detector,
    to_keras_cv,
)
from keras_dyhead.layers import DyHeadNeck  # noqa: E402


def backbone_maps(size=8):
    rng = np.random.default_rng(0)
    return {
        f"P{i + 3}": rng.normal(size=(1, -(-size // 2**i), -(-size // 2**i), 24)).astype("float32")
        for i in range(3)
    }


def plain_yolov8(seed=0):
    """A plain detector whose biases and batch statistics differ from their initial values."""
    detector = keras_cv.models.YOLOV8Detector(
        tiny_detectors.keras_cv_backbone(), 2, "xyxy", fpn_depth=1
    )
    rng = np.random.default_rng(seed)
    for weight in detector.weights:
        if weight.name != "kernel":
            weight.assign_add(rng.uniform(0.0, 0.2, weight.shape))
    return detector


@pytest.fixture(scope="module")
def plain():
    """A plain detector for all tests, which leave it as it is."""
    return plain_yolov8()


def assert_same_outputs(model, other, images, **tolerance):
    expected = other(images)
    for key, value in model(images).items():
        np.testing.assert_allclose(value, expected[key], **tolerance)


def test_the_import_error_without_keras_cv_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    for module in ("keras_dyhead.integrations", "keras_dyhead.integrations.keras_cv"):
        monkeypatch.delitem(sys.modules, module)
    importlib.import_module("keras_dyhead.integrations")
    with pytest.raises(ImportError, match=r"pip install '.\[kerascv\]'"):
        importlib.import_module("keras_dyhead.integrations.keras_cv")


def test_to_keras_cv_renames_labels_and_leaves_its_argument_alone():
    targets = tiny_detectors.targets()
    converted = to_keras_cv(targets)
    assert set(targets) == {"boxes", "labels"}
    assert converted == {"boxes": targets["boxes"], "classes": targets["labels"]}


def test_to_keras_cv_maps_a_dataset():
    dataset = tf.data.Dataset.from_tensor_slices(
        (tiny_detectors.images(), tiny_detectors.targets())
    )
    images, targets = next(iter(to_keras_cv(dataset.batch(2))))
    assert images.shape == (2, 64, 64, 3)
    np.testing.assert_array_equal(targets["classes"], tiny_detectors.targets(2)["labels"])


def test_targets_without_labels_are_refused_with_their_keys():
    with pytest.raises(ValueError, match=r"'labels'.*\['boxes', 'classes'\]"):
        to_keras_cv({"boxes": [], "classes": []})


@pytest.mark.parametrize("size", [8, 9])
def test_the_pyramid_is_its_fpn_followed_by_its_neck(size):
    """P3 to P7, sizes halved and rounded up, odd sizes included."""
    maps = backbone_maps(size)
    layer = DyHeadFeaturePyramid(DyHeadNeck(1, 16))
    outputs = layer(maps)
    expected = layer.neck(layer.feature_pyramid(maps))
    assert list(expected) == ["P3", "P4", "P5", "P6", "P7"]
    sides = [-(-size // 2**i) for i in range(5)]
    assert [tuple(x.shape) for x in outputs] == [(1, n, n, 16) for n in sides]
    for x, y in zip(outputs, expected.values(), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_symbolic_pyramid_knows_its_shapes():
    inputs = {level: keras.Input(x.shape[1:]) for level, x in backbone_maps().items()}
    outputs = DyHeadFeaturePyramid(DyHeadNeck(1, 16))(inputs)
    assert [x.shape for x in outputs] == [(None, n, n, 16) for n in (8, 4, 2, 1, 1)]


def test_the_pyramid_takes_over_the_fpn_of_a_plain_retinanet():
    """Without a neck, only that FPN is left, also after loading the config."""
    maps = backbone_maps()
    fpn = keras_cv.models.retinanet.FeaturePyramid()
    expected = fpn(maps)
    layer = DyHeadFeaturePyramid(neck=None, feature_pyramid=fpn)
    again = DyHeadFeaturePyramid.from_config(layer.get_config())
    again.build({level: x.shape for level, x in maps.items()})
    again.set_weights(fpn.get_weights())
    for pyramid in (layer, again):
        for x, y in zip(pyramid(maps), expected, strict=True):
            np.testing.assert_array_equal(x, y)


def test_retinanet_remembers_our_pyramid_and_only_ours():
    ours = tiny_detectors.keras_cv_retinanet()
    pyramid = type(ours).from_config(ours.get_config()).feature_pyramid
    assert isinstance(pyramid, DyHeadFeaturePyramid)
    assert pyramid.neck.get_config() == ours.feature_pyramid.neck.get_config()
    plain = keras_cv.models.RetinaNet(tiny_detectors.keras_cv_backbone(), 2, "xyxy")
    assert "feature_pyramid" not in plain.get_config()


def test_the_default_pyramid_fits_retinanets_default_anchors_and_heads():
    """P3..P7 as KerasCV expects them, also from a dataset with the extra keys of evaluation."""
    pyramid = DyHeadFeaturePyramid(DyHeadNeck(1, 16))
    model = keras_cv.models.RetinaNet(
        tiny_detectors.keras_cv_backbone(), 2, "xyxy", feature_pyramid=pyramid
    )
    tiny_detectors.compile_model("keras_cv_retinanet", model, run_eagerly=True)
    extra = {"image_id": np.arange(4), "scale": np.ones((4, 2), "float32")}
    dataset = tf.data.Dataset.from_tensor_slices(
        (tiny_detectors.images(), tiny_detectors.targets() | extra)
    )
    history = model.fit(to_keras_cv(dataset.batch(2)), verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert history["box_loss"][0] > 0  # some anchor matched some box


def test_from_detector_copies_every_weight_by_path(plain):
    model = DyHeadYOLOV8Detector.from_detector(plain, DyHeadNeck(1, 16))
    copied = {weight.path: weight for weight in model.weights}
    for weight in plain.weights:
        assert copied[weight.path] is not weight
        np.testing.assert_array_equal(copied.pop(weight.path), weight)
    assert {path.split("/")[0] for path in copied} == {"dyhead_between"}


def test_weights_saved_by_a_plain_detector_load_into_ours(plain, tmp_path):
    """A `.weights.h5` file of a plain detector loads into everything but DyHead."""
    plain.save_weights(tmp_path / "plain.weights.h5")
    model = DyHeadYOLOV8Detector.from_detector(
        plain_yolov8(seed=1), DyHeadNeck(1, 16), residual=True
    )
    model.load_weights(tmp_path / "plain.weights.h5", skip_mismatch=True)
    assert_same_outputs(model, plain, tiny_detectors.images(1), rtol=1e-5, atol=1e-5)


def test_residual_starts_where_the_plain_detector_ended(plain):
    """Outputs equal those of the trained plain detector until DyHead's projection changes."""
    images = tiny_detectors.images(1)
    model = DyHeadYOLOV8Detector.from_detector(plain, DyHeadNeck(1, 16), residual=True)
    assert_same_outputs(model, plain, images, rtol=1e-6, atol=1e-6)
    kernel = model.get_layer("dyhead_between").back[0].kernel
    kernel.assign(keras.ops.ones_like(kernel))
    assert np.abs(model(images)["boxes"] - plain(images)["boxes"]).max() > 1e-2


def test_the_yolov8_head_sees_only_the_outputs_of_dyhead(plain):
    """With zero projections back, the outputs no longer depend on the image."""
    model = DyHeadYOLOV8Detector.from_detector(plain, DyHeadNeck(1, 16))
    images = tiny_detectors.images(2)
    boxes = model(images)["boxes"]
    assert np.abs(boxes[0] - boxes[1]).max() > 1e-3
    for conv in model.get_layer("dyhead_between").back:
        conv.kernel.assign(keras.ops.zeros_like(conv.kernel))
    boxes = model(images)["boxes"]
    # Not bit for bit: a CPU may sum the rows of one batch in different orders.
    np.testing.assert_allclose(boxes[0], boxes[1], rtol=0, atol=1e-6)


def test_from_detector_refuses_other_models():
    with pytest.raises(TypeError, match="YOLOV8Detector. Received: .*Sequential"):
        DyHeadYOLOV8Detector.from_detector(keras.Sequential())


def test_yolov8_config_keeps_neck_and_residual(plain):
    backbone = tiny_detectors.keras_cv_backbone()
    neck = DyHeadNeck(2, 32, "published", use_scale_attention=False)
    model = DyHeadYOLOV8Detector(backbone, 2, "xyxy", fpn_depth=1, neck=neck, residual=True)
    again = DyHeadYOLOV8Detector.from_config(model.get_config())
    assert again.residual and again.neck.get_config() == neck.get_config()
    without = DyHeadYOLOV8Detector(backbone, 2, "xyxy", fpn_depth=1, neck=None)
    assert len(without.weights) == len(plain.weights)
