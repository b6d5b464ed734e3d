"""Dynamic Head (DyHead, CVPR 2021) for Keras 3.

Importing the package registers its layers, backbones, detectors and optimizers for
`keras.saving.load_model`. What reads data, trains or exports needs TensorFlow, and is imported
when it is first used.
"""

import importlib

from keras_dyhead import backbones, detectors, layers, ops, optimizers
from keras_dyhead.version import __version__

_EXPORTS = ("export_litert", "export_onnx", "export_saved_model")
_ROOMS = (
    *("checkpoints", "coco", "export", "inference", "integrations", "recipes", "training"),
    "visualization",
)

__all__ = [
    "__version__",
    "backbones",
    "detectors",
    "layers",
    "ops",
    "optimizers",
    *_EXPORTS,
    *_ROOMS,
]


def __getattr__(name: str):
    if name in _ROOMS:
        return importlib.import_module(f"keras_dyhead.{name}")
    if name in _EXPORTS:
        return getattr(importlib.import_module("keras_dyhead.export"), name)
    raise AttributeError(f"module 'keras_dyhead' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
