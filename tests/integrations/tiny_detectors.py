"""The three compositions as small as their host packages allow, and data to train them on.

They have three levels if the package allows it, because XLA's compile time grows with their number.
The tests of each adapter use P3..P7. Every detector returns all detections, however weak.
"""

import keras
import numpy as np

from keras_dyhead.layers import DyHeadNeck, FeaturePyramid

SIZE = 64
NUM_CLASSES = 2


def images(count=4):
    return np.random.default_rng(0).uniform(0, 255, (count, SIZE, SIZE, 3)).astype("float32")


def targets(count=4):
    """Two boxes and one padded place per image, `xyxy` pixels, in this package's format."""
    boxes = np.array([[4, 4, 40, 44], [10, 20, 30, 60], [-1, -1, -1, -1]], "float32")
    labels = np.array([0, 1, -1], "float32")
    return {"boxes": np.stack([boxes] * count), "labels": np.stack([labels] * count)}


def keras_cv_backbone():
    import keras_cv

    return keras_cv.models.YOLOV8Backbone(
        [8, 16, 24, 32], [1, 1, 1, 1], include_rescaling=True, input_shape=(SIZE, SIZE, 3)
    )


def keras_cv_retinanet():
    import keras_cv

    from keras_dyhead.integrations.keras_cv import DyHeadFeaturePyramid

    head = keras_cv.models.retinanet.PredictionHead
    nms = keras_cv.layers.NonMaxSuppression("xyxy", from_logits=True, confidence_threshold=0.0)
    return keras_cv.models.RetinaNet(
        keras_cv_backbone(),
        NUM_CLASSES,
        "xyxy",
        anchor_generator=keras_cv.layers.AnchorGenerator(
            "xyxy", [16.0, 32.0, 64.0], [2**0, 2**0.5], [0.5, 1.0, 2.0], [8, 16, 32]
        ),
        prediction_decoder=nms,
        feature_pyramid=DyHeadFeaturePyramid(DyHeadNeck(1, 16), FeaturePyramid(16, max_level=5)),
        classification_head=head(6 * NUM_CLASSES, keras.initializers.Constant(-2.0), 1),
        box_head=head(6 * 4, keras.initializers.Zeros(), 1),
    )


def keras_cv_yolov8():
    import keras_cv

    from keras_dyhead.integrations.keras_cv import DyHeadYOLOV8Detector

    nms = keras_cv.layers.NonMaxSuppression("xyxy", from_logits=False, confidence_threshold=0.0)
    return DyHeadYOLOV8Detector(
        keras_cv_backbone(),
        NUM_CLASSES,
        "xyxy",
        fpn_depth=1,
        prediction_decoder=nms,
        neck=DyHeadNeck(1, 16),
    )


def keras_hub_backbone(dtype=None, max_level=5):
    import keras_hub

    from keras_dyhead.integrations.keras_hub import DyHeadBackbone

    encoder = keras_hub.models.ResNetBackbone(
        [64], [3], [64, 16, 16, 16], [1, 1, 1, 1], [1, 2, 2, 2], "basic_block", dtype=dtype
    )
    shape = (SIZE, SIZE, 3)
    pyramid = keras_hub.models.RetinaNetBackbone(
        encoder, 3, max_level, use_p5=False, image_shape=shape, dtype=dtype
    )
    return DyHeadBackbone(pyramid, DyHeadNeck(1, 16, dtype=dtype))


def keras_hub_retinanet(dtype=None, **kwargs):
    import keras_hub

    from keras_dyhead.integrations.keras_hub import correct_retinanet

    nms = keras_hub.layers.NonMaxSuppression("xyxy", from_logits=True, confidence_threshold=0.0)
    detector = keras_hub.models.RetinaNetObjectDetector(
        keras_hub_backbone(dtype),
        NUM_CLASSES,
        bounding_box_format="xyxy",
        pre_logits_num_conv_layers=1,
        prediction_decoder=nms,
        **kwargs,
    )
    return correct_retinanet(detector)


COMPOSITIONS = {
    "keras_cv_retinanet": keras_cv_retinanet,
    "keras_cv_yolov8": keras_cv_yolov8,
    "keras_hub_retinanet": keras_hub_retinanet,
}
LOSSES = {
    "keras_cv_retinanet": {"box_loss": "smoothl1", "classification_loss": "focal"},
    "keras_cv_yolov8": {"box_loss": "ciou", "classification_loss": "binary_crossentropy"},
    "keras_hub_retinanet": {},
}


def compile_model(name, model, **kwargs):
    model.compile(optimizer=keras.optimizers.SGD(1e-3), **LOSSES[name], **kwargs)
    return model


def data(name, count=4):
    """`(images, targets)` in the format of the composition's host package."""
    if name == "keras_hub_retinanet":
        return images(count), targets(count)
    from keras_dyhead.integrations.keras_cv import to_keras_cv

    return images(count), to_keras_cv(targets(count))
