"""Our detectors, as functions that `benchmarks.measurement` measures."""

from collections.abc import Callable

import keras
from keras import ops

from keras_dyhead.backbones import BACKBONES
from keras_dyhead.detectors import DETECTORS, Detector
from keras_dyhead.layers import DyHeadNeck


def build(workload, name: str, blocks: int, **options) -> Detector:
    """Builds a detector with random weights and defaults for other arguments.

    Args:
        workload: A `Workload`.
        name: One of `keras_dyhead.detectors.DETECTORS`.
        blocks: Number of DyHead blocks, 0 for none.
        **options: Further arguments of the detector.
    """
    detector, (backbone, arguments) = DETECTORS[name], BACKBONES[workload.backbone]
    shape = (workload.height, workload.width, 3)
    if backbone.__name__ == "ResNetBackbone":
        arguments = {"batch_norm": "train"} | arguments  # as in the README and torchvision
    return detector(
        backbone(**arguments, image_shape=shape),
        num_classes=workload.num_classes,
        neck=DyHeadNeck(blocks, workload.channels) if blocks else None,
        pyramid=detector.default_pyramid(workload.channels),
        image_shape=shape,
        **options,
    )


def detection(model: Detector) -> Callable:
    """Returns a function that detects objects in preprocessed images `(B, H, W, 3)`."""

    def detect(images):
        shape = ops.shape(images)
        sizes = ops.tile(ops.stack(shape[1:3])[None], (shape[0], 1))
        return model.decode(model(images, training=False), sizes)

    return detect


def keras_detector(workload, **options):
    """Returns prediction, training step and versions of a detector, compiled with defaults."""
    import tensorflow as tf

    model = build(workload, **options)
    model.compile(keras.optimizers.SGD(1e-5))
    detect = tf.function(detection(model), autograph=False)
    images, targets = tf.constant(workload.images()), workload.targets()
    return (
        lambda: [x.numpy() for x in detect(images).values()],
        lambda: model.train_on_batch(images, targets),
        f"Keras {keras.__version__}, TensorFlow {tf.__version__}",
    )
