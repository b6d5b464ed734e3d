"""Loads detectors, detects, and saves them again: `KERAS_BACKEND=jax python elsewhere.py FOLDER`.

Reads `NAME.keras`; writes `found-NAME.npz` and `again-NAME.keras`.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from detectors.test_every_backend import IMAGES

import keras_dyhead  # noqa: F401 (registers the detectors with Keras)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for path in folder.glob("*.keras"):
        model = keras.saving.load_model(path)
        np.savez(folder / f"found-{path.stem}.npz", **model.predict(IMAGES, verbose=0))
        model.save(folder / f"again-{path.name}")
