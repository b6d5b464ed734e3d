"""Export of detectors to ONNX."""

import json
import os
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_dyhead.detectors.preprocessor import DetectionPreprocessor
from keras_dyhead.export.serving import (
    PortablePreprocessor,
    check_full_precision,
    file_to_write,
    servable,
)
from keras_dyhead.ops.arguments import for_any_batch
from keras_dyhead.ops.sampling_form import sampling_form

OPSET = 18


def export_onnx(
    model: keras.Model,
    path: str | os.PathLike,
    image_size: tuple[int, int] | None = None,
    preprocessor: DetectionPreprocessor | None = None,
) -> None:
    """Exports a detector to an ONNX file that includes preprocessing and decoding.

    Input `images`: RGB images `(B, H, W, 3)` float32, values 0..255, of any size. Outputs are those
    of `export_saved_model`. The file uses only standard ONNX operations (opset 18). If the model
    has class names, the metadata entry `class_names` has them as a JSON list.

    Args:
        model: A detector as in `export_saved_model`, with the float32 policy.
        path: File to write. Missing folders are created.
        image_size: `(height, width)` that images are resized to fit, or `None` to follow the
            preprocessor. A fixed size makes the graph smaller and faster, and halves the conversion
            time (minutes for six DyHead blocks). Images may have any size in both cases. Defaults
            to `None`.
        preprocessor: As in `export_saved_model`, but not of a subclass, nor may the model's own be.
            Defaults to `None`.

    Raises:
        ImportError: If onnx or tf2onnx is missing: run `pip install '.[export]'` in a clone.
        TypeError: If `model` is not a supported detector.
        ValueError: If the model computes in half precision, the preprocessor is of a subclass,
            `path` is a folder, or `image_size` differs from the one the model is built for.

    Example:
    ```python
    export_onnx(model, "detector.onnx", image_size=(512, 512))
    session = onnxruntime.InferenceSession("detector.onnx")
    outputs = session.run(["boxes", "labels"], {"images": images.astype("float32")})
    ```
    """
    detector, preprocessor = servable(model, image_size, preprocessor, PortablePreprocessor)
    check_full_precision(model)
    path = file_to_write(path)

    serve = for_any_batch(lambda images: detector.detect(preprocessor(images)))
    proto = convert(serve, tf.TensorSpec((None, None, None, 3), tf.float32, name="images"))
    if detector.class_names is not None:
        names = json.dumps(list(detector.class_names), ensure_ascii=False)
        proto.metadata_props.add(key="class_names", value=names)
    path.write_bytes(proto.SerializeToString())


def convert(function: Callable, signature: tf.TensorSpec):
    """Converts a function from one tensor to a dict of tensors to an ONNX model.

    The name of the `signature` becomes that of the model's input. The model has passed ONNX's
    checker.
    """
    try:
        import onnx
        import tf2onnx
    except ImportError as error:
        raise ImportError(
            "`export_onnx` needs onnx and tf2onnx: `pip install '.[export]'` in a clone."
        ) from error
    with sampling_form("gather"):
        proto, _ = tf2onnx.convert.from_function(
            tf.function(lambda inputs: function(inputs), input_signature=[signature]),
            [signature],
            opset=OPSET,
            custom_op_handlers={
                "Erfc": (_erfc, []),
                "FloorDiv": (_floor_div, []),
                "FloorMod": (_floor_mod, []),
            },
        )
    onnx.checker.check_model(proto)  # tf2onnx only logs unsupported operations
    return proto


def _erfc(graph, node, name, args):
    """Converts the complementary error function, part of GELU, which tf2onnx 1.17 lacks."""
    erf = graph.make_node("Erf", node.input)
    one = graph.make_const(f"{name}_one", np.ones((), "float32"))
    _replace(graph, node, "Sub", [one.output[0], erf.output[0]])


def _floor_div(graph, node, name, args):
    """Converts integer division to round down, where tf2onnx 1.17 rounds toward zero."""
    dividend, divisor = node.input
    if _is_floating(graph, dividend):
        quotient = graph.make_node("Div", [dividend, divisor])
        _replace(graph, node, "Floor", quotient.output)
        return
    remainder = graph.make_node("Mod", [dividend, divisor])
    multiple = graph.make_node("Sub", [dividend, remainder.output[0]])
    _replace(graph, node, "Div", [multiple.output[0], divisor])


def _floor_mod(graph, node, name, args):
    """Converts the remainder to match `_floor_div`."""
    dividend, divisor = node.input
    if not _is_floating(graph, dividend):
        _replace(graph, node, "Mod", [dividend, divisor])
        return
    quotient = graph.make_node("Div", [dividend, divisor])
    floor = graph.make_node("Floor", quotient.output)
    multiple = graph.make_node("Mul", [floor.output[0], divisor])
    _replace(graph, node, "Sub", [dividend, multiple.output[0]])


def _is_floating(graph, tensor):
    from onnx import TensorProto

    return graph.get_dtype(tensor) in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def _replace(graph, node, operation, inputs):
    outputs, shapes, dtypes = node.output, node.output_shapes, node.output_dtypes
    graph.remove_node(node.name)
    graph.make_node(
        operation, list(inputs), name=node.name, outputs=outputs, shapes=shapes, dtypes=dtypes
    )
