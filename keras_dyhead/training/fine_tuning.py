"""Fine-tunes a trained detector, also on other classes."""

import os
from collections.abc import Sequence

import keras
from keras.saving import deserialize_keras_object

from keras_dyhead.checkpoints import PUBLISHED
from keras_dyhead.checkpoints.load_checkpoint import stored_config
from keras_dyhead.coco import COCO_CLASSES
from keras_dyhead.detectors import DETECTORS, DetectionPreprocessor, Detector


def trained_preprocessor(
    weights: str | os.PathLike,
) -> tuple[DetectionPreprocessor, tuple[int, int] | None]:
    """Returns the preprocessor and the fixed image size (or `None`) of a trained detector.

    The detector is not built. `weights` is a path of a `.keras` file or a published model's name.

    Raises:
        ValueError: If neither a file nor a published model is found, or the file has no detector.
    """
    if weights in PUBLISHED:
        return DetectionPreprocessor(**PUBLISHED[weights].preprocessing), None
    config = _config_of(weights)
    height, width, _ = config["image_shape"]
    size = None if None in (height, width) else (height, width)
    return deserialize_keras_object(config["preprocessor"]), size


def reinitialized_layers(weights: str | os.PathLike, class_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the layers of a trained detector that start with new weights for these classes."""
    if weights in PUBLISHED:
        detector, trained = DETECTORS[PUBLISHED[weights].detector], COCO_CLASSES
    else:
        config = _config_of(weights)
        detector, trained = config["class"], config["class_names"]
    return () if list(trained or ()) == list(class_names) else detector.class_layers


def _config_of(path: str | os.PathLike) -> dict:
    """Returns the arguments of the detector in a `.keras` file, and its `class`."""
    content = stored_config(path)
    detector = keras.saving.get_registered_object(content.get("registered_name") or "")
    if not (isinstance(detector, type) and issubclass(detector, Detector)):
        raise ValueError(
            f"{path} must contain a keras_dyhead detector. Received: a {content['class_name']}"
        )
    return content["config"] | {"class": detector}
