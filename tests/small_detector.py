"""A detector with DyHead that finds something everywhere, and pictures for it."""

import keras
import numpy as np

from keras_dyhead.backbones import ResNetBackbone
from keras_dyhead.coco import SHAPES
from keras_dyhead.detectors import ATSS, DetectionDecoder, DetectionPreprocessor
from keras_dyhead.layers import DyHeadNeck, FeaturePyramid


def move_weights(neck):
    """Gives the neck's offsets and gates random weights; they start with zero and almost zero."""
    rng = np.random.default_rng(0)
    for weight in neck.weights:
        if "offset_conv" in weight.path or "gate" in weight.path:
            weight.assign(rng.normal(0, 0.3, weight.shape))


def small_detector(preprocessor=None, image_shape=(None, None, 3)):
    """An ATSS on P3..P5 that resizes images to 64 pixels, its head as spread out as if trained."""
    keras.utils.set_random_seed(0)
    default = DetectionPreprocessor(min_side=64, max_side=96, pad_multiple=32)
    model = ATSS(
        ResNetBackbone(18, base_channels=8, image_shape=image_shape),
        num_classes=len(SHAPES),
        neck=DyHeadNeck(2, 16),
        pyramid=FeaturePyramid(16, max_level=5),
        image_shape=image_shape,
        preprocessor=preprocessor or default,
        decoder=DetectionDecoder(score_threshold=0.0, max_detections=20),
        class_names=SHAPES,
    )
    move_weights(model.neck)
    for weight in model.head.weights:
        weight.assign(keras.random.normal(weight.shape, stddev=0.5, seed=1))
    return model


def picture(height, width):
    """A smooth random image."""
    coarse = np.random.default_rng(0).integers(0, 255, (5, 5, 3), "uint8")
    return np.asarray(keras.ops.image.resize(coarse, (height, width))).astype("uint8")


def by_hand(model, image):
    """Preprocessing, model and decoding step by step, as the detectors' own methods do them."""
    batch = {key: np.asarray(v) for key, v in model.preprocessor(image[None]).items()}
    found = model.decode(model(batch["images"]), batch["image_sizes"])
    found = {key: np.asarray(value)[0] for key, value in found.items()}
    y_scale, x_scale = batch["scales"][0]
    boxes = found["boxes"] / [x_scale, y_scale, x_scale, y_scale]
    count = found.pop("num_detections")
    return {key: value[:count] for key, value in (found | {"boxes": boxes}).items()}
