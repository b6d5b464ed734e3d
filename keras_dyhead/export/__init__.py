"""Export of detectors to files that run without this package: SavedModel, ONNX, LiteRT."""

# ruff: noqa: E402 (explains that TensorFlow is missing before the imports fail)

from keras_dyhead.needs import need_tensorflow

need_tensorflow("keras_dyhead.export")

from keras_dyhead.export.litert import export_litert
from keras_dyhead.export.onnx import export_onnx
from keras_dyhead.export.saved_model import export_saved_model

__all__ = ["export_litert", "export_onnx", "export_saved_model"]
