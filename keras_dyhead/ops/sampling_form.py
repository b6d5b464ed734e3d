"""Chooses how to gather weighted rows: by sparse matrix products or by gathers."""

import contextlib
import sys

import keras

from keras_dyhead.ops.arguments import check_choice

_EXPORTERS = (
    *("keras.src.export.", "tf2onnx."),
    *("tensorflow.lite.", "tensorflow.python.saved_model."),
)
_forced = None


def chosen_form(dtype="float32") -> str:
    """Returns the form in which rows are gathered, now or in the current trace.

    `"sparse"` if TensorFlow's own runtime will execute it on CPUs. There it is several times as
    fast as `"gather"` (see `benchmarks`), and equal up to rounding. XLA, ONNX and LiteRT have no
    such operation, and half precision has no kernel.

    Args:
        dtype: dtype of the rows. Defaults to `"float32"`.
    """
    if keras.backend.backend() != "tensorflow":
        return "gather"
    if keras.backend.standardize_dtype(dtype) not in ("float32", "float64"):
        return "gather"
    if _forced is not None:
        return _forced
    import tensorflow as tf

    if any(device.device_type != "CPU" for device in tf.config.get_visible_devices()):
        return "gather"
    if not tf.executing_eagerly() and (is_compiled() or _is_exported()):
        return "gather"
    return "sparse"


@contextlib.contextmanager
def sampling_form(form: str):
    """Forces one form in everything run or traced inside the context, for tests and benchmarks.

    Gathers remain where the backend or the dtype does not support the form.

    Args:
        form: `"sparse"` or `"gather"`.

    Raises:
        ValueError: If `form` is neither.

    Example:

    >>> with sampling_form("gather"):
    ...     chosen_form()
    'gather'
    """
    global _forced
    check_choice("form", form, ("sparse", "gather"))
    before, _forced = _forced, form
    try:
        yield
    finally:
        _forced = before


def sparse_weights(indices, weights, rows):
    """Returns the matrix `(P * S, R)` that `weighted_gather` multiplies `rows` by, in CSR format.

    Without positions or rows, it still has one of them; see `sparse_matmul`.
    """
    import tensorflow as tf

    num_lines = tf.reduce_prod(tf.shape(indices)[:-1])
    columns = tf.reshape(indices, (num_lines, indices.shape[-1]))
    lines = tf.broadcast_to(tf.range(num_lines)[:, None], tf.shape(columns))
    shape = tf.maximum(tf.stack([num_lines, tf.shape(rows)[0]]), 1)
    return tf.raw_ops.SparseTensorToCSRSparseMatrix(
        indices=tf.cast(tf.reshape(tf.stack([lines, columns], axis=-1), (-1, 2)), "int64"),
        values=tf.cast(tf.reshape(weights, (-1,)), rows.dtype),
        dense_shape=tf.cast(shape, "int64"),
    )


def sparse_matmul(matrix, dense, num_lines, transpose=False):
    """Computes the first `num_lines` lines of `matrix @ dense` or `matrix.T @ dense`.

    `num_lines` may be zero. TensorFlow divides by the number of lines and would end the process.
    """
    import tensorflow as tf

    if transpose:  # `transpose_a` is not deterministic and takes twice as long
        matrix = tf.raw_ops.SparseMatrixTranspose(input=matrix, type=dense.dtype)
    dense = tf.pad(dense, [[0, tf.maximum(1 - tf.shape(dense)[0], 0)], [0, 0]])
    return tf.raw_ops.SparseMatrixMatMul(a=matrix, b=dense)[:num_lines]


def is_compiled() -> bool:
    """Whether TensorFlow is tracing for XLA, which needs to know all shapes beforehand."""
    import tensorflow as tf
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

    return GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def _is_exported() -> bool:
    """Whether an exporter asked for the current trace, which any runtime may then execute later.

    Only the call stack shows this.
    """
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(_EXPORTERS):
            return True
        frame = frame.f_back
    return False
