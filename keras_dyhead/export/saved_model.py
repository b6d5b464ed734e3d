"""Export of detectors to SavedModel."""

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from keras_dyhead.coco.decode_image import decode_rgb
from keras_dyhead.detectors.preprocessor import DetectionPreprocessor
from keras_dyhead.export.serving import servable, serving_archive
from keras_dyhead.needs import need_writable
from keras_dyhead.ops.arguments import check, for_any_batch
from keras_dyhead.ops.sampling_form import chosen_form, sampling_form
from keras_dyhead.printable import counted, printable


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    image_size: tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
    preprocessor: DetectionPreprocessor | None = None,
) -> None:
    """Exports a detector to a SavedModel that includes preprocessing and decoding.

    `tf.saved_model.load(path)` loads it without Keras or this package. Its signatures:

    - `serving_default(images)`: RGB images `(B, H, W, 3)` float32, values 0..255, of any size.
    - `serving_bytes(files)`: `(B,)` strings, the bytes of JPEG or PNG files of any sizes. JPEGs are
      decoded to the same pixels as by Pillow.

    Both return `"boxes"` `(B, N, 4)` float32 xyxy in pixels of the given images, `"labels"`
    `(B, N)` int32 padded with -1, `"confidence"` `(B, N)` float32 and `"num_detections"` `(B,)`
    int32.

    Args:
        model: A detector of this package, KerasCV's RetinaNet or YOLOV8Detector, or KerasHub's
            RetinaNetObjectDetector, with or without DyHead.
        path: Folder to write, created if needed.
        image_size: `(height, width)` that images are resized to fit, or `None` to follow the
            preprocessor. If the size is fixed, `serving_bytes` runs all files as one batch;
            otherwise it runs each file separately, at its own size. Defaults to `None`.
        class_names: Names of the classes, written to `assets.extra/class_names.txt`, one per line.
            Defaults to those of the model, if it has any.
        preprocessor: A `DetectionPreprocessor` in place of the model's own. KerasCV's detectors
            have none and take values 0..255. KerasHub's use the scale and offset of their preset,
            if they have one. Defaults to `None`.

    Raises:
        TypeError: If `model` is not a supported detector.
        ValueError: If `image_size` differs from the one the model is built for, the number of
            names differs from that of its classes, `path` is a file, or TensorFlow cannot load from
            it.

    Example:
    ```python
    export_saved_model(model, "out", image_size=(512, 512))
    detect = tf.saved_model.load("out").signatures["serving_bytes"]
    detect(tf.constant([open("image.jpg", "rb").read()]))["boxes"]
    ```
    """
    check_loadable(path)
    need_writable(path, folder=True)
    detector, preprocessor = servable(model, image_size, preprocessor)
    class_names = detector.class_names if class_names is None else class_names
    if class_names is not None:
        listed = isinstance(class_names, Collection) and not isinstance(class_names, str)
        check("class_names", class_names, listed, "a list of names")
        if len(class_names) != detector.num_classes:
            raise ValueError(
                f"`class_names` must have {counted(detector.num_classes, 'name')}. "
                f"Received: {counted(len(class_names), 'name')}"
            )

    detect = for_any_batch(detector.detect)

    def preprocess_file(file):
        return preprocessor(decode_rgb(file)[None])

    def serving_default(images):
        return detect(preprocessor(images))

    def serving_bytes(files):
        if preprocessor.image_size is None:
            places = detector.decoder.max_detections
            one = {
                "boxes": tf.TensorSpec((places, 4)),
                "labels": tf.TensorSpec((places,), tf.int32),
                "confidence": tf.TensorSpec((places,)),
                "num_detections": tf.TensorSpec((), tf.int32),
            }
            return _map_files(lambda file: detector.detect(preprocess_file(file)), files, one)
        one = {
            "images": tf.TensorSpec((*preprocessor.image_size, 3)),
            "image_sizes": tf.TensorSpec((2,), tf.int32),
            "scales": tf.TensorSpec((2,)),
        }
        return detect(_map_files(preprocess_file, files, one))

    images = tf.TensorSpec((None, None, None, 3), tf.float32, name="images")
    files = tf.TensorSpec((None,), tf.string, name="files")
    with sampling_form(chosen_form()):  # it will run in TensorFlow, as here
        archive = serving_archive(
            model,
            serving_default=(serving_default, [images]),
            serving_bytes=(serving_bytes, [files]),
        )
        archive.write_out(os.fspath(path), verbose=False)
    names = Path(path, "assets.extra", "class_names.txt")
    names.unlink(missing_ok=True)  # of an earlier export to the same folder
    if class_names is not None:
        names.parent.mkdir(exist_ok=True)
        names.write_text("\n".join(map(printable, class_names)) + "\n", encoding="utf-8")


def check_loadable(path: str | os.PathLike) -> None:
    """Checks that TensorFlow, which treats a folder's name as a pattern, can load from the folder.

    Raises:
        ValueError: If the name contains a bracket or a backslash, or is not valid UTF-8.
    """
    name = os.fspath(path).replace(os.sep, "/")
    if re.search(r"[\[\\\ud800-\udfff]", name):
        raise ValueError(
            "TensorFlow cannot load a SavedModel from a folder with a bracket, a backslash or "
            f"invalid UTF-8 in its name: choose another. Received: {name}"
        )


def _map_files(function, files, signature):
    """Maps `function`, which returns a dict of batches of size one, over files."""

    def first(file):
        return {name: batch[0] for name, batch in function(file).items()}

    return tf.map_fn(first, files, fn_output_signature=signature)
