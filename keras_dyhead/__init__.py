"""Dynamic Head (DyHead, CVPR 2021) for Keras 3.

Importing the package lets `keras.saving.load_model` find its layers, backbones, detectors and
optimizers. Subpackages are imported on first use, so the command line's help does not need Keras.
`export`, `training` and functions that create `tf.data` datasets need TensorFlow.
"""

# ruff: noqa: F401, I001 (names for type checkers, in two lines)

import importlib
from typing import TYPE_CHECKING

from keras_dyhead.needs import has_tensorflow
from keras_dyhead.registration import NEEDING_KERAS, register_with_keras
from keras_dyhead.version import __version__

_EXPORTS = ("export_litert", "export_onnx", "export_saved_model")
_ROOMS = (*NEEDING_KERAS, "recipes")

__all__ = ["__version__", *_EXPORTS, *_ROOMS]
if not has_tensorflow():
    __all__ = [name for name in __all__ if name not in (*_EXPORTS, "export", "training")]

if TYPE_CHECKING:  # type checkers would accept any name where they see `__getattr__`
    from keras_dyhead import backbones, checkpoints, coco, detectors, export, inference
    from keras_dyhead import integrations, layers, ops, optimizers, recipes, training, visualization
    from keras_dyhead.export import export_litert, export_onnx, export_saved_model
else:

    def __getattr__(name: str):
        if name in _ROOMS:
            return importlib.import_module(f"keras_dyhead.{name}")
        if name in _EXPORTS:
            return getattr(importlib.import_module("keras_dyhead.export"), name)
        raise AttributeError(f"module 'keras_dyhead' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_with_keras()
