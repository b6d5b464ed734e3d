"""Counts the multiply-adds of a TensorFlow graph."""

import itertools
import math

import tensorflow as tf

from keras_dyhead.ops.sampling_form import sampling_form

_PRODUCTS = ("Conv2D", "DepthwiseConv2dNative", "Einsum")
_PRODUCTS += ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")


def count_multiply_adds(function, image_size) -> tuple[int, tuple[str, ...]]:
    """Counts the multiply-adds of all convolutions and matrix products for one image.

    A multiplication and the addition of its result count as one, as in most papers on detection.
    Interpolation in deformable sampling, normalization, activations and other elementwise
    arithmetic are not counted.

    Args:
        function: A model or another function of images `(1, H, W, 3)`.
        image_size: Height and width of the image.

    Returns:
        The number, and the names of operations that could not be counted: operations of unknown
        size, and bodies of loops and branches. In this package this is only RoIAlign, which reads
        as many pixels as its regions have.
    """
    signature = tf.TensorSpec((1, *image_size, 3), tf.float32)
    before = tf.config.functions_run_eagerly()
    # Inlines inner functions, such as the shared trace of DyHead's blocks, into the graph.
    tf.config.run_functions_eagerly(True)
    try:
        with sampling_form("gather"):  # sparse products run in a loop
            graph = tf.function(function, autograph=False).get_concrete_function(signature).graph
    finally:
        tf.config.run_functions_eagerly(before)
    counts = {
        operation.name: _multiply_adds(operation)
        for operation in graph.get_operations()
        if operation.type in _PRODUCTS
    }
    uncounted = [name for name, count in counts.items() if count is None]
    uncounted += [
        function.signature.name
        for function in graph.as_graph_def().library.function
        if any(node.op in _PRODUCTS for node in function.node_def)
    ]
    return int(sum(count or 0 for count in counts.values())), tuple(uncounted)


def _multiply_adds(operation) -> int | None:
    """Returns the multiply-adds of an operation, or `None` if its size is unknown."""
    kind, shapes = operation.type, [tensor.shape for tensor in operation.inputs]
    outputs = operation.outputs[0].shape
    if not all(s.is_fully_defined() for s in (*shapes, outputs)):
        return None
    if kind == "Einsum":
        terms = operation.get_attr("equation").decode().split("->")[0].split(",")
        sizes = (zip(term, shape, strict=True) for term, shape in zip(terms, shapes, strict=True))
        return math.prod(dict(itertools.chain(*sizes)).values())
    first, second = shapes
    if kind == "Conv2D":
        inner = second[:3].num_elements()
    elif kind == "DepthwiseConv2dNative":
        inner = second[:2].num_elements()
    elif kind == "MatMul":
        inner = first[0 if operation.get_attr("transpose_a") else 1]
    else:
        inner = first[-2 if operation.get_attr("adj_x") else -1]
    return inner * outputs.num_elements()
