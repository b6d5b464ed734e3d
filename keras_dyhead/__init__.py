"""Dynamic Head (DyHead, CVPR 2021) for Keras 3.

Importing the package registers its layers, backbones, detectors and optimizers for
`keras.saving.load_model`.
"""

from keras_dyhead import backbones, detectors, layers, ops, optimizers
from keras_dyhead.export import export_litert, export_onnx, export_saved_model
from keras_dyhead.version import __version__

__all__ = [
    "__version__",
    "backbones",
    "detectors",
    "export_litert",
    "export_onnx",
    "export_saved_model",
    "layers",
    "ops",
    "optimizers",
]
