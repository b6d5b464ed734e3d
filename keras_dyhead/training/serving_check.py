"""Runs a SavedModel on image files without Keras and this package.

Run this script in a fresh interpreter:

    python -I serving_check.py SAVED_MODEL OUTPUT.npz IMAGE [IMAGE ...]

It saves what `serving_bytes` returns. Only TensorFlow loads and runs the model: the `None` entries
below make every import of the packages fail.
"""

import sys

ABSENT = ("keras", "keras_cv", "keras_dyhead", "keras_hub", "tf_keras")


def main(saved_model: str, output: str, *images: str) -> None:
    """Saves the detections in image files to an `.npz` file."""
    sys.modules.update(dict.fromkeys(ABSENT))  # TensorFlow would import Keras
    import numpy as np
    import tensorflow as tf

    detect = tf.saved_model.load(saved_model).signatures["serving_bytes"]
    detections = detect(tf.constant([tf.io.read_file(image).numpy() for image in images]))
    np.savez(output, **{name: value.numpy() for name, value in detections.items()})
    loaded = {name.split(".")[0] for name, module in sys.modules.items() if module is not None}
    assert not loaded.intersection(ABSENT), f"still imported: {loaded.intersection(ABSENT)}"


if __name__ == "__main__":
    main(*sys.argv[1:])
