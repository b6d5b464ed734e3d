"""LiteRT files in their interpreter against the model itself."""

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

from keras_dyhead.detectors import DetectionPreprocessor
from keras_dyhead.export import export_litert

# The others also take ten seconds each.
QUICK = (("atss", 1),)


@pytest.mark.parametrize(
    ("detector", "num_blocks"),
    [
        pytest.param(name, n, marks=() if (name, n) in QUICK else pytest.mark.slow)
        for name in SMALL
        for n in (0, 1)
    ],
)
def test_the_interpreter_detects_the_same_in_images_of_any_size(
    detector, num_blocks, forms, tmp_path
):
    model = small_detector(detector, num_blocks)
    export_litert(model, tmp_path / "model.tflite", image_size=(64, 96))
    assert forms() == ({"gather"} if num_blocks else set())
    images = pictures(tmp_path)[1]
    expected = [by_hand(model, image, DetectionPreprocessor((64, 96))) for image in images]
    kinds = tf.lite.experimental.OpResolverType
    for kind in (kinds.AUTO, kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES):  # with and without XNNPACK
        detect = tf.lite.Interpreter(
            str(tmp_path / "model.tflite"), experimental_op_resolver_type=kind
        ).get_signature_runner()
        for i in (0, 1, 2, 2, 1, 0):  # XNNPACK plans again for every size
            out = detect(images=images[i][None].astype("float32"))
            assert_same({key: out[key][0] for key in out}, expected[i])


def test_a_model_of_any_size_needs_an_image_size(tmp_path):
    with pytest.raises(ValueError, match="image_size=None"):
        export_litert(small_retinanet(), tmp_path / "model.tflite")
