"""ONNX files in ONNX Runtime against the model itself."""

import json

import numpy as np
import onnxruntime
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

from keras_dyhead.backbones import ResNetBackbone, SwinBackbone
from keras_dyhead.export.onnx import convert, export_onnx
from keras_dyhead.layers import DyHeadNeck

# The others also take half a minute each.
QUICK = (("atss", 1),)


def run(session, images):
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(names, {"images": images.astype("float32")})
    return dict(zip(names, outputs, strict=True))


@pytest.mark.parametrize(
    ("detector", "num_blocks"),
    [
        pytest.param(name, n, marks=() if (name, n) in QUICK else pytest.mark.slow)
        for name in SMALL
        for n in (0, 1)
    ],
)
def test_onnx_runtime_detects_the_same_in_images_of_any_size(detector, num_blocks, forms, tmp_path):
    names = ["a", "b", "ü"]
    neck = DyHeadNeck(1, 16, alignment="published") if num_blocks else None
    model = small_detector(detector, neck=neck, class_names=names)
    path = tmp_path / "model.onnx"
    export_onnx(model, path)
    assert forms() == ({"gather"} if num_blocks else set())
    session = onnxruntime.InferenceSession(path)
    assert json.loads(session.get_modelmeta().custom_metadata_map["class_names"]) == names
    for image in pictures(tmp_path)[1]:
        batch = np.stack([image, image[::-1]])
        out = run(session, batch)
        for i in range(2):
            assert_same({key: out[key][i] for key in out}, by_hand(model, batch[i]))
    places = model.decoder.max_detections
    assert run(session, batch[:0])["boxes"].shape == (0, places, 4)


@pytest.mark.parametrize(
    "backbone",
    [
        pytest.param(
            lambda: ResNetBackbone(50, groups=2, width_per_group=4, base_channels=16), id="resnext"
        ),
        pytest.param(
            lambda: SwinBackbone(8, (1, 2, 1, 1), (1, 1, 2, 2), window_size=3),
            id="swin",
            marks=pytest.mark.slow,  # takes 20 seconds
        ),
    ],
)
def test_backbones_give_the_same_maps_on_odd_sizes(backbone):
    backbone = backbone()
    proto = convert(backbone, tf.TensorSpec((None, None, None, 3), name="images"))
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    for size in [(50, 71), (64, 33)]:
        images = np.random.default_rng(0).standard_normal((1, *size, 3)).astype("float32")
        out = run(session, images)
        for level, expected in backbone(images).items():
            atol = 1e-4 * np.abs(expected).max()
            np.testing.assert_allclose(out[level], expected, atol=atol)


def test_integer_division_rounds_down():
    """tf2onnx itself rounds toward zero, and computes remainders to match."""

    def divide(numbers):
        whole = tf.cast(numbers, "int32")
        return {"div": whole // 4, "mod": whole % 4, "float_div": numbers // 4}

    proto = convert(divide, tf.TensorSpec((None,), name="images"))
    numbers = np.arange(-9, 10)
    out = run(onnxruntime.InferenceSession(proto.SerializeToString()), numbers)
    np.testing.assert_array_equal(out["div"], numbers // 4)
    np.testing.assert_array_equal(out["mod"], numbers % 4)
    np.testing.assert_array_equal(out["float_div"], numbers // 4)


def test_half_precision_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="bfloat16"):
        export_onnx(small_retinanet(dtype="mixed_bfloat16"), tmp_path / "model.onnx")
