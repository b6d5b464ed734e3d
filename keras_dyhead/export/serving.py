"""What every exported graph does: preprocess, detect, and return boxes in the image's pixels."""

import keras
from keras import ops

from keras_dyhead.detectors.detector import Detector
from keras_dyhead.detectors.preprocessor import DetectionPreprocessor, shrinks
from keras_dyhead.integrations.hosted import HostedDetector, is_hosted


class PortablePreprocessor(DetectionPreprocessor):
    """Preprocesses by matrix products, for runtimes without TensorFlow's resize operations.

    Every output pixel is the same weighted sum of input pixels as with `tf.image.resize`.
    """

    def interpolate(self, images, size):
        """Resizes `(B, H, W, 3)` float32 images bilinearly, without rounding."""
        height, width = ops.shape(images)[1:3]
        filtered = shrinks((height, width), size)
        rows = _weights(height, size[0], filtered)
        columns = _weights(width, size[1], filtered)
        images = ops.matmul(rows, ops.reshape(images, (-1, height, width * 3)))
        return ops.matmul(columns, ops.reshape(images, (-1, size[0], width, 3)))


def _weights(size, new_size, filtered):
    """Returns the weights of all input pixels for every output pixel, `(new_size, size)`.

    Computed in the order of TensorFlow's two kernels, so that few bits differ; with divisions, as
    LiteRT's XNNPACK got products with reciprocals of unknown size wrong (TensorFlow 2.21).
    """
    size, new = ops.cast(size, "float32"), ops.cast(new_size, "float32")
    step = ops.where(filtered, 1.0 / (new / size), size / new)
    centers = (ops.arange(new_size, dtype="float32")[:, None] + 0.5) * step
    pixels = ops.arange(size, dtype="float32")
    distances = ops.where(filtered, pixels + 0.5 - centers, pixels - (centers - 0.5))
    reach = ops.where(filtered, ops.maximum(step, 1.0), 1.0)
    weights = ops.relu(1.0 - ops.abs(distances) / reach)
    return weights / ops.sum(weights, axis=1, keepdims=True)


def servable(
    model: keras.Model,
    image_size: tuple[int, int] | None = None,
    preprocessor: DetectionPreprocessor | None = None,
    cls: type[DetectionPreprocessor] | None = None,
) -> tuple[Detector | HostedDetector, DetectionPreprocessor]:
    """Returns what an exported graph runs: a detector, and the preprocessor it follows.

    Args:
        model: A detector of this package, or one of KerasCV or KerasHub, see `HostedDetector`.
        image_size: `(height, width)` every image is fitted into, or `None` to follow the
            preprocessor. Defaults to `None`.
        preprocessor: Takes the place of the model's own. Defaults to `None`.
        cls: Class of the preprocessor. Defaults to that of the one it takes after.

    Raises:
        TypeError: If `model` is no such detector.
        ValueError: If `image_size` differs from a size the model is built for, or is needed, or if
            Keras does not run on TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Models are exported where Keras runs on TensorFlow: save this one as a .keras file, "
            "and export it with KERAS_BACKEND=tensorflow. "
            f"Received: the backend {keras.backend.backend()!r}"
        )
    hosted = is_hosted(model)
    if not hosted and not isinstance(model, Detector):
        raise TypeError(
            "`model` must be a detector of keras_dyhead, a RetinaNet or YOLOV8Detector of KerasCV "
            f"or a RetinaNetObjectDetector of KerasHub. Received: {type(model)}"
        )
    detector = HostedDetector(model) if hosted else model
    preprocessor = preprocessor or detector.preprocessor
    config = preprocessor.get_config()
    if image_size is not None:
        config["image_size"] = tuple(image_size)
    size = config["image_size"]
    if hosted and size is None:
        raise ValueError(
            "The model computes anchors for one size: give it, such as image_size=(512, 512). "
            f"Received: image_size={image_size}"
        )
    built_for = detector.image_shape[:2]
    if size is not None and any(b not in (None, s) for b, s in zip(built_for, size, strict=True)):
        raise ValueError(
            f"The model is built for images of {built_for}. Received: image_size={size}"
        )
    return detector, (cls or type(preprocessor)).from_config(config)


def check_full_precision(model: keras.Model) -> None:
    """Raises a `ValueError` if a layer computes in half precision, which converters cannot."""
    half = {
        layer.compute_dtype
        for layer in model._flatten_layers()
        if layer.compute_dtype in ("float16", "bfloat16")
    }
    if half:
        raise ValueError(
            'Only models of the "float32" policy can be converted: build the model anew with '
            f'dtype="float32" and copy the weights with `set_weights`. Received: {sorted(half)}'
        )


def serving_archive(model: keras.Model, **endpoints) -> keras.export.ExportArchive:
    """Returns an archive of the model with endpoints `name=(function, signature)`."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, (function, signature) in endpoints.items():
        archive.add_endpoint(name, function, signature)
    return archive
