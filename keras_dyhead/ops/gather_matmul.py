"""The sampling engine: weighted row gather and one matrix product, with a lean gradient."""

import keras
from keras import ops


def gather_matmul(rows, index, weights, kernel, groups: int = 1):
    """Multiplies weighted sums of gathered rows with a kernel: `columns(rows) @ kernel`.

    Column `s` of output position `p` is `sum_j weights[j, p, s] * rows[index[j, p, s]]`. Deformable
    convolution is this operation with the four bilinear corners as `j` and the kernel's taps as
    `s`.
    The columns are never kept for the gradient: it stores the four arguments and gathers again.

    Args:
        rows: Tensor of shape `(R, D)`, float.
        index: Tensor of shape `(J, P, S)`, int32, every entry in `[0, R)`.
        weights: Tensor of shape `(J, P, S)`, float32.
        kernel: Tensor of shape `(K, C // groups, F)` with `K * C == S * D`, dtype of `rows`.
        groups: Number of blocks that input and output channels are split into.

    Returns:
        Tensor of shape `(P, F)`, dtype of `rows`.
    """
    num_taps, group_channels, filters = kernel.shape

    def split(columns):
        return ops.reshape(columns, (-1, num_taps, groups, group_channels))

    def split_filters(tensor):
        return ops.reshape(tensor, tuple(tensor.shape[:-1]) + (groups, filters // groups))

    @ops.custom_gradient
    def forward(rows, index, weights, kernel):
        columns = weighted_gather(rows, index, weights)
        if groups == 1:
            flat = ops.reshape(columns, (-1, num_taps * group_channels))
            outputs = ops.matmul(flat, ops.reshape(kernel, (-1, filters)))
        else:
            outputs = ops.einsum("pkgc,kcgf->pgf", split(columns), split_filters(kernel))
            outputs = ops.reshape(outputs, (-1, filters))

        def gradient(*args, upstream=None):
            grad = args[0] if upstream is None else upstream
            columns = weighted_gather(rows, index, weights)
            if groups == 1:
                flat = ops.reshape(columns, (-1, num_taps * group_channels))
                grad_kernel = ops.matmul(ops.transpose(flat), grad)
                grad_columns = ops.matmul(grad, ops.transpose(ops.reshape(kernel, (-1, filters))))
            else:
                grad_groups = split_filters(ops.reshape(grad, (-1, filters)))
                grad_kernel = ops.einsum("pkgc,pgf->kcgf", split(columns), grad_groups)
                grad_columns = ops.einsum("pgf,kcgf->pkgc", grad_groups, split_filters(kernel))
            grad_columns = ops.reshape(grad_columns, ops.shape(columns))
            grad_rows, grad_weights = weighted_gather_gradient(grad_columns, rows, index, weights)
            return grad_rows, None, grad_weights, ops.reshape(grad_kernel, kernel.shape)

        return outputs, gradient

    return forward(rows, index, weights, kernel)


def weighted_gather(rows, index, weights):
    """Sums `J` gathered rows with their weights: `(J, P, S)` -> `(P, S, D)`, dtype of `rows`."""
    weights = ops.cast(weights, rows.dtype)[..., None]
    return sum(_take(rows, index[j]) * weights[j] for j in range(index.shape[0]))


def weighted_gather_gradient(grad_columns, rows, index, weights):
    """Gradients of `weighted_gather` to `rows` and `weights`, accumulated in at least float32."""
    accumulator = keras.backend.result_type(rows.dtype, "float32")
    num_rows, width = ops.shape(rows)
    grad_rows, grad_weights = 0.0, []
    for j in range(index.shape[0]):
        grad_weights.append(
            ops.sum(ops.cast(grad_columns * _take(rows, index[j]), accumulator), axis=-1)
        )
        updates = ops.cast(grad_columns, accumulator) * ops.cast(weights[j], accumulator)[..., None]
        grad_rows += _scatter_add(
            ops.reshape(updates, (-1, width)), ops.reshape(index[j], (-1,)), num_rows
        )
    return ops.cast(grad_rows, rows.dtype), ops.cast(ops.stack(grad_weights), weights.dtype)


def _take(rows, index):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(rows, index)
    return ops.take(rows, index, axis=0)


def _scatter_add(updates, index, num_rows):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.math.unsorted_segment_sum(updates, index, num_rows)
    return ops.segment_sum(updates, index, num_segments=num_rows)
