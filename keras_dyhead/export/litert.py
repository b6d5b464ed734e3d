"""Export of detectors to LiteRT (TensorFlow Lite)."""

import os
import tempfile

import keras
import tensorflow as tf
from keras import ops

from keras_dyhead.detectors.preprocessor import DetectionPreprocessor
from keras_dyhead.export.serving import (
    PortablePreprocessor,
    check_full_precision,
    file_to_write,
    servable,
    serving_archive,
)
from keras_dyhead.ops.sampling_form import sampling_form


class _IntegerPreprocessor(PortablePreprocessor):
    """Computes sizes with integers, as LiteRT has no float64."""

    def resized_size(self, height, width):
        full_height, full_width = self.image_size
        tall = full_height * width <= full_width * height  # the height limits the size
        new_height = (2 * full_width * height + width) // (2 * width)
        new_width = (2 * full_height * width + height) // (2 * height)
        return (
            ops.maximum(ops.where(tall, full_height, new_height), 1),
            ops.maximum(ops.where(tall, new_width, full_width), 1),
        )


def export_litert(
    model: keras.Model,
    path: str | os.PathLike,
    image_size: tuple[int, int] | None = None,
    preprocessor: DetectionPreprocessor | None = None,
) -> None:
    """Exports a detector to a LiteRT file that includes preprocessing and decoding.

    Its signature `serving_default` takes one image at a time, `images` `(1, H, W, 3)`: RGB, float32
    values 0..255, of any size; it is resized to fit `image_size`. Outputs are those of
    `export_saved_model` with B = 1. The file uses only LiteRT's built-in operations, none of
    TensorFlow's.

    Args:
        model: A detector as in `export_saved_model`, with the float32 policy.
        path: File to write. Missing folders are created.
        image_size: `(height, width)` that images are resized to fit. Required unless the
            preprocessor fixes it: LiteRT plans memory for one size. Defaults to `None`.
        preprocessor: As in `export_saved_model`, but not of a subclass, nor may the model's own be.
            Defaults to `None`.

    Raises:
        TypeError: If `model` is not a supported detector.
        ValueError: If the size is not fixed or differs from the one the model is built for, the
            model computes in half precision, the preprocessor is of a subclass, or `path` is a
            folder.

    Example:
    ```python
    export_litert(model, "detector.tflite", image_size=(320, 320))
    detect = tf.lite.Interpreter("detector.tflite").get_signature_runner()
    detect(images=image[None].astype("float32"))["boxes"]
    ```
    """
    detector, preprocessor = servable(model, image_size, preprocessor, _IntegerPreprocessor)
    check_full_precision(model)
    if preprocessor.image_size is None:
        raise ValueError(
            "LiteRT needs a fixed `image_size`, such as (320, 320). "
            f"Received: image_size={image_size}"
        )
    path = file_to_write(path)

    def serve(images):
        batch = preprocessor(images)
        # With one image, all sizes in the graph are constants.
        fixed = tf.reshape(batch["images"], (1, *preprocessor.image_size, 3))
        return detector.detect(batch | {"images": fixed})

    signature = [tf.TensorSpec((1, None, None, 3), tf.float32, name="images")]
    with tempfile.TemporaryDirectory() as folder, sampling_form("gather"):
        archive = serving_archive(model, serving_default=(serve, signature))
        archive.write_out(folder, verbose=False)
        path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())
