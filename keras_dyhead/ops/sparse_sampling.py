"""Weighted row gathers as sparse matrix products: the quickest form on CPUs with TensorFlow."""

import contextlib

import keras

_enabled = False


@contextlib.contextmanager
def sparse_sampling(enabled: bool = True):
    """Samples by sparse matrix products in everything traced or run inside the context.

    On CPUs quicker than the default, gathers and scatters (see `benchmarks`); the results agree to
    rounding. It is for TensorFlow's own runtime only (training, prediction, SavedModels): XLA
    (`jit_compile=True`), ONNX and LiteRT have no such operation. Half-precision features and other
    backends are sampled as usual.

    Args:
        enabled: Whether to use sparse products inside the context. Defaults to `True`.

    Example:

    >>> with sparse_sampling():
    ...     model.fit(dataset)  # doctest: +SKIP (needs a model)
    """
    global _enabled
    before, _enabled = _enabled, enabled
    try:
        yield
    finally:
        _enabled = before


def sampling_mode() -> str:
    """What the current context samples by: "sparse" or "gather"."""
    return "sparse" if _enabled else "gather"


def samples_sparsely(rows) -> bool:
    """Whether `rows` are to be gathered by a sparse product."""
    return (
        _enabled
        and keras.backend.backend() == "tensorflow"
        and keras.backend.standardize_dtype(rows.dtype) in ("float32", "float64")
    )


def sparse_weights(indices, weights, rows):
    """The matrix that `weighted_gather` multiplies `rows` with: `(P * S, R)`, compressed rows."""
    import tensorflow as tf

    num_lines = tf.reduce_prod(tf.shape(indices)[:-1])
    columns = tf.reshape(indices, (num_lines, indices.shape[-1]))
    lines = tf.broadcast_to(tf.range(num_lines)[:, None], tf.shape(columns))
    return tf.raw_ops.SparseTensorToCSRSparseMatrix(
        indices=tf.cast(tf.reshape(tf.stack([lines, columns], axis=-1), (-1, 2)), "int64"),
        values=tf.cast(tf.reshape(weights, (-1,)), rows.dtype),
        dense_shape=tf.cast(tf.stack([num_lines, tf.shape(rows)[0]]), "int64"),
    )


def sparse_matmul(matrix, dense, transpose=False):
    """`matrix @ dense`, or `matrix.T @ dense`."""
    import tensorflow as tf

    if transpose:  # `transpose_a` does not give the same bits every time, and takes twice as long
        matrix = tf.raw_ops.SparseMatrixTranspose(input=matrix, type=dense.dtype)
    return tf.raw_ops.SparseMatrixMatMul(a=matrix, b=dense)
