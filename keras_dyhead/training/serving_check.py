"""Runs a SavedModel on image files where Keras and this package cannot be imported.

A script of its own, started by file name in a fresh interpreter:

    python -I serving_check.py SAVED_MODEL OUTPUT.npz IMAGE [IMAGE ...]

It saves what `serving_bytes` returns. TensorFlow alone loads and runs the model: the entries set
to `None` below make every attempt to import the packages an error.
"""

import sys

ABSENT = ("keras", "keras_cv", "keras_dyhead", "keras_hub", "tf_keras")


def main(saved_model: str, output: str, *images: str) -> None:
    """Saves the detections in image files as arrays of an `.npz` file."""
    sys.modules.update(dict.fromkeys(ABSENT))  # TensorFlow would import Keras of its own accord
    import numpy as np
    import tensorflow as tf

    detect = tf.saved_model.load(saved_model).signatures["serving_bytes"]
    detections = detect(tf.constant([tf.io.read_file(image).numpy() for image in images]))
    np.savez(output, **{name: value.numpy() for name, value in detections.items()})
    loaded = {name.split(".")[0] for name, module in sys.modules.items() if module is not None}
    assert not loaded.intersection(ABSENT), f"imported after all: {loaded.intersection(ABSENT)}"


if __name__ == "__main__":
    main(*sys.argv[1:])
