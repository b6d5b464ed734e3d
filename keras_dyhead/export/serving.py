"""What every exported graph does: preprocess, detect, and return boxes in the image's pixels."""

import keras
from keras import ops

from keras_dyhead.detectors.detector import Detector
from keras_dyhead.detectors.preprocessor import DetectionPreprocessor, shrinks


class PortablePreprocessor(DetectionPreprocessor):
    """Preprocesses by matrix products, for runtimes without TensorFlow's resize operations.

    Every output pixel is the same weighted sum of input pixels as with `tf.image.resize`.
    """

    def interpolate(self, images, size):
        """Resizes `(B, H, W, 3)` float32 images bilinearly, without rounding."""
        height, width = ops.shape(images)[1:3]
        filtered = self.antialias and shrinks((height, width), size)
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
    centres = (ops.arange(new_size, dtype="float32")[:, None] + 0.5) * step
    pixels = ops.arange(size, dtype="float32")
    distances = ops.where(filtered, pixels + 0.5 - centres, pixels - (centres - 0.5))
    reach = ops.where(filtered, ops.maximum(step, 1.0), 1.0)
    weights = ops.relu(1.0 - ops.abs(distances) / reach)
    return weights / ops.sum(weights, axis=1, keepdims=True)


def serving_preprocessor(model: Detector, image_size=None, cls=None) -> DetectionPreprocessor:
    """Returns the preprocessor an exported graph uses: the model's, or one for `image_size`.

    Args:
        model: A detector of this package.
        image_size: `(height, width)` every image is fitted into, or `None` to follow the model's
            preprocessor. Defaults to `None`.
        cls: Class of the preprocessor. Defaults to that of the model's.

    Raises:
        TypeError: If `model` is no detector of this package.
        ValueError: If `image_size` differs from a size the model is built for, or Keras does not
            run on TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Models are exported where Keras runs on TensorFlow: save this one as a .keras file, "
            "and export it with KERAS_BACKEND=tensorflow. "
            f"Received: the backend {keras.backend.backend()!r}"
        )
    if not isinstance(model, Detector):
        raise TypeError(f"`model` must be a keras_dyhead detector. Received: {type(model)}")
    config = model.preprocessor.get_config()
    if image_size is not None:
        config["image_size"] = image_size = tuple(image_size)
        built_for = model.image_shape[:2]
        if any(b not in (None, s) for b, s in zip(built_for, image_size, strict=True)):
            raise ValueError(
                f"The model is built for images of {built_for}. Received: image_size={image_size}"
            )
    return (cls or type(model.preprocessor)).from_config(config)


def check_full_precision(model: Detector) -> None:
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


def serving_archive(model: Detector, **endpoints) -> keras.export.ExportArchive:
    """Returns an archive of the model with endpoints `name=(function, signature)`."""
    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, (function, signature) in endpoints.items():
        archive.add_endpoint(name, function, signature)
    return archive
