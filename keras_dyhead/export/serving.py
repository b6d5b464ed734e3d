"""The parts that all exported graphs share."""

import os
from pathlib import Path

import keras
from keras import ops

from keras_dyhead.detectors.detector import Detector
from keras_dyhead.detectors.preprocessor import DetectionPreprocessor, shrinks
from keras_dyhead.integrations.hosted import HostedDetector, is_hosted
from keras_dyhead.needs import need_writable
from keras_dyhead.ops.arguments import check


class PortablePreprocessor(DetectionPreprocessor):
    """Resizes with matrix products, for runtimes without TensorFlow's resize operations.

    Every output pixel is the same weighted sum of input pixels as in `tf.image.resize`.
    """

    def interpolate(self, images, size):
        height, width = ops.shape(images)[1:3]
        filtered = shrinks((height, width), size)
        rows = _weights(height, size[0], filtered)
        columns = _weights(width, size[1], filtered)
        images = ops.matmul(rows, ops.reshape(images, (-1, height, width * 3)))
        return ops.matmul(columns, ops.reshape(images, (-1, size[0], width, 3)))


def _weights(size, new_size, filtered):
    """Returns the weights of all input pixels for every output pixel, `(new_size, size)`.

    The order of operations is that of TensorFlow's two kernels, so that few bits differ. LiteRT's
    XNNPACK needs divisions: it multiplies by reciprocals of dynamic size wrongly (TensorFlow 2.21).
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
    """Returns the detector and the preprocessor for an exported graph.

    Arguments are those of `export_saved_model`. `cls` is the class of the returned preprocessor, by
    default that of the given or the model's one, which it must extend.

    Raises:
        TypeError: If `model` is not a supported detector.
        ValueError: If `image_size` is missing or differs from the one the model is built for, if
            `image_size` or `preprocessor` has another form, if `cls` would replace a preprocessor's
            own methods, or if the Keras backend is not TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Export needs the TensorFlow backend: save the model as a .keras file, and export it "
            "with KERAS_BACKEND=tensorflow. "
            f"Received: the backend {keras.backend.backend()!r}"
        )
    hosted = is_hosted(model)
    if not hosted and not isinstance(model, Detector):
        raise TypeError(
            "`model` must be a detector of keras_dyhead, a RetinaNet or YOLOV8Detector of KerasCV, "
            f"or a RetinaNetObjectDetector of KerasHub. Received: {type(model)}"
        )
    detector = HostedDetector(model) if hosted else model
    given = isinstance(preprocessor, DetectionPreprocessor | None)
    check("preprocessor", preprocessor, given, "a DetectionPreprocessor")
    preprocessor = preprocessor or detector.preprocessor
    kept = cls is None or issubclass(cls, type(preprocessor))
    expected = "a DetectionPreprocessor itself; export_saved_model also keeps subclasses"
    check("preprocessor", preprocessor, kept, expected)
    config = preprocessor.get_config()
    if image_size is not None:
        # Checked here: `from_config` gives errors another class.
        config["image_size"] = DetectionPreprocessor(image_size).image_size
    served = (cls or type(preprocessor)).from_config(config)
    size = served.image_size
    if hosted and size is None:
        raise ValueError(
            "The model needs a fixed `image_size` for its anchors, such as (512, 512). "
            f"Received: image_size={image_size}"
        )
    built_for = detector.image_shape[:2]
    if size is not None and any(b not in (None, s) for b, s in zip(built_for, size, strict=True)):
        raise ValueError(
            f"`image_size` must be left out, or be the size the model is built for, {built_for}. "
            f"Received: image_size={size}"
        )
    return detector, served


def file_to_write(path: str | os.PathLike) -> Path:
    """Returns the path of a file, in a folder that now exists: a conversion takes minutes.

    Raises:
        ValueError: If the file cannot be written.
    """
    path = Path(path)
    need_writable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def check_full_precision(model: keras.Model) -> None:
    """Raises a `ValueError` if a layer has half precision, which converters do not support."""
    half = {
        layer.compute_dtype
        for layer in model._flatten_layers()
        if layer.compute_dtype in ("float16", "bfloat16")
    }
    if half:
        raise ValueError(
            'Only models with the "float32" policy can be converted: rebuild the model with '
            f'dtype="float32" and copy the weights with `set_weights`. Received: {sorted(half)}'
        )


def serving_archive(model: keras.Model, **endpoints) -> keras.export.ExportArchive:
    """Returns an export archive of the model with endpoints `name=(function, signature)`."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, (function, signature) in endpoints.items():
        archive.add_endpoint(name, function, signature)
    return archive
