"""A detector with DyHead whose offsets, masks and gates differ from place to place."""

import keras
import numpy as np

from keras_dyhead.backbones import ResNetBackbone
from keras_dyhead.detectors import ATSS, DetectionDecoder, DetectionPreprocessor
from keras_dyhead.layers import DyHeadNeck, FeaturePyramid


def move_weights(neck):
    """Gives the neck's offsets and gates random weights; they start with zero and almost zero."""
    rng = np.random.default_rng(0)
    for weight in neck.weights:
        if "offset_conv" in weight.path or "gate" in weight.path:
            weight.assign(rng.normal(0, 0.3, weight.shape))


def small_detector(num_blocks=2, **kwargs):
    """An ATSS on P3..P5 that resizes images to 64 pixels and detects something everywhere."""
    keras.utils.set_random_seed(0)
    model = ATSS(
        ResNetBackbone(18, base_channels=8),
        num_classes=2,
        neck=DyHeadNeck(num_blocks, 16, name="dyhead") if num_blocks else None,
        pyramid=FeaturePyramid(16, max_level=5),
        preprocessor=DetectionPreprocessor(min_side=64, max_side=96, pad_multiple=32),
        decoder=DetectionDecoder(score_threshold=0.0, max_detections=5),
        class_names=("cat", "dog"),
        **kwargs,
    )
    if num_blocks:
        move_weights(model.neck)
    return model


def picture(height, width):
    """A smooth random image."""
    coarse = np.random.default_rng(0).integers(0, 255, (5, 5, 3), "uint8")
    return np.asarray(keras.ops.image.resize(coarse, (height, width))).astype("uint8")
