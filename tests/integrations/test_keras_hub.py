"""What is specific to the KerasHub adapter."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from integrations import tiny_detectors

from keras_dyhead.integrations.keras_hub import DyHeadBackbone, correct_retinanet


def uncorrected_detector(**kwargs):
    return keras_hub.models.RetinaNetObjectDetector(
        tiny_detectors.keras_hub_backbone(max_level=7), 2, bounding_box_format="xyxy", **kwargs
    )


def test_the_backbone_is_its_retinanet_backbone_followed_by_its_neck():
    backbone = tiny_detectors.keras_hub_backbone(max_level=7)
    images = tiny_detectors.images(1)
    outputs = backbone(images)
    expected = backbone.neck(backbone.backbone(images))
    assert {k: tuple(x.shape) for k, x in outputs.items()} == {
        f"P{3 + i}": (1, n, n, 16) for i, n in enumerate([8, 4, 2, 1, 1])
    }
    for level, x in outputs.items():
        np.testing.assert_array_equal(x, expected[level])


def test_pyramid_outputs_are_the_models_outputs():
    """As `FeaturePyramidBackbone` promises: they can feed any other model."""
    backbone = tiny_detectors.keras_hub_backbone()
    model = keras.Model(backbone.inputs, backbone.pyramid_outputs["P4"])
    images = tiny_detectors.images(1)
    np.testing.assert_array_equal(model(images), backbone(images)["P4"])


def test_the_backbone_survives_its_config_with_everything_nested():
    plain = tiny_detectors.keras_hub_backbone("mixed_bfloat16").backbone
    backbone = DyHeadBackbone(plain, name="pyramid")
    again = DyHeadBackbone.from_config(backbone.get_config())
    assert again.name == "pyramid" and again.neck.get_config() == backbone.neck.get_config()
    assert again.neck.dtype_policy.name == again.dtype_policy.name == "mixed_bfloat16"
    assert [w.shape for w in again.weights] == [w.shape for w in backbone.weights]
    assert len(DyHeadBackbone(plain, neck=None).weights) == len(plain.weights)


def test_the_backbone_refuses_an_image_encoder():
    encoder = tiny_detectors.keras_hub_backbone().backbone.image_encoder
    with pytest.raises(TypeError, match="RetinaNetBackbone .* Received: <ResNetBackbone"):
        DyHeadBackbone(encoder)


def test_classes_start_at_the_prior_and_boxes_at_their_anchors():
    """Tested on a map of zeros, which tells the heads nothing."""
    detector = correct_retinanet(uncorrected_detector())
    zeros = np.zeros((1, 4, 4, 16), "float32")
    logits, deltas = detector.classification_head(zeros), detector.box_head(zeros)
    np.testing.assert_allclose(logits, np.full_like(logits, np.log(0.01 / 0.99)), rtol=1e-6)
    np.testing.assert_array_equal(deltas, np.zeros_like(deltas))


def test_correcting_leaves_trained_biases_alone():
    detector = correct_retinanet(uncorrected_detector())
    biases = [h.prediction_layer.bias for h in (detector.box_head, detector.classification_head)]
    trained = [np.random.default_rng(0).normal(size=bias.shape) for bias in biases]
    for bias, value in zip(biases, trained, strict=True):
        bias.assign(value)
    correct_retinanet(detector)
    for bias, value in zip(biases, trained, strict=True):
        np.testing.assert_allclose(bias, value, rtol=1e-6)


def test_only_a_retinanet_can_be_corrected():
    with pytest.raises(TypeError, match="RetinaNetObjectDetector. Received: .*Sequential"):
        correct_retinanet(keras.Sequential())


def test_the_detector_preprocesses_images_of_any_size():
    """KerasHub's image converter resizes; the detections are those of the resized images."""
    converter = keras_hub.layers.RetinaNetImageConverter(image_size=(64, 64), scale=1 / 255.0)
    preprocessor = keras_hub.models.RetinaNetObjectDetectorPreprocessor(converter)
    detector = tiny_detectors.keras_hub_retinanet(preprocessor=preprocessor)
    photo = np.random.default_rng(0).uniform(0, 255, (1, 80, 100, 3)).astype("float32")
    detector.run_eagerly = True
    detections = detector.predict(photo, verbose=0)
    detector.preprocessor = None
    expected = detector.predict(keras.ops.convert_to_numpy(converter(photo)), verbose=0)
    assert detections["num_detections"][0] > 0
    np.testing.assert_allclose(detections["boxes"], expected["boxes"], rtol=1e-4, atol=1e-3)


def test_a_saved_detector_keeps_the_policy_of_its_backbone(tmp_path):
    """bfloat16 inside and float32 outside, also after loading, with the global policy unchanged."""
    detector = tiny_detectors.keras_hub_retinanet("mixed_bfloat16")
    images = tiny_detectors.images(1)
    detector.save(tmp_path / "detector.keras")
    loaded = keras.models.load_model(tmp_path / "detector.keras", compile=False)
    for model in (detector, loaded):
        assert {x.dtype for x in model.backbone(images).values()} == {tf.bfloat16}
        assert {x.dtype for x in model(images).values()} == {tf.float32}
    np.testing.assert_array_equal(detector(images)["cls_logits"], loaded(images)["cls_logits"])
