"""The sampling engine: weighted row gather and one matrix product, with a lean gradient."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_dyhead.ops.rows import scatter_add_rows, take_rows
from keras_dyhead.ops.sparse_sampling import samples_sparsely, sparse_matmul, sparse_weights


def gather_matmul(rows, indices: Sequence, weights: Sequence, kernel, groups: int = 1):
    """Multiplies weighted sums of gathered rows with a kernel: `columns(rows) @ kernel`.

    Column `s` of output position `p` is `sum_j weights[j][p, s] * rows[indices[j][p, s]]`.
    Deformable convolution is this operation with the four bilinear corners as `j` and the kernel's
    taps as `s`. The columns are never kept for the gradient: it stores the arguments and gathers
    again.

    Args:
        rows: Tensor of shape `(R, D)`, float.
        indices: Tensors of shape `(P, S)`, int32, every entry in `[0, R)`.
        weights: As many tensors of shape `(P, S)`, at least float32.
        kernel: Tensor of shape `(K, C // groups, F)` with `K * C == S * D`, dtype of `rows`.
        groups: Number of blocks that input and output channels are split into.

    Returns:
        Tensor of shape `(P, F)`, dtype of `rows`.
    """
    num_corners = len(indices)
    num_taps, group_channels, filters = kernel.shape
    split_columns = (-1, num_taps, groups, group_channels)
    split_filters = (groups, filters // groups)

    def gather(rows, indices, weights):
        columns = weighted_gather(rows, indices, weights)
        return ops.reshape(
            columns, split_columns if groups > 1 else (-1, num_taps * group_channels)
        )

    @ops.custom_gradient
    def forward(rows, kernel, *corners):
        indices, weights = corners[:num_corners], corners[num_corners:]
        columns = gather(rows, indices, weights)
        if groups == 1:
            outputs = ops.matmul(columns, ops.reshape(kernel, (-1, filters)))
        else:
            split_kernel = ops.reshape(kernel, (num_taps, group_channels, *split_filters))
            outputs = ops.einsum("pkgc,kcgf->pgf", columns, split_kernel)
            outputs = ops.reshape(outputs, (-1, filters))

        def gradient(*args, upstream=None):
            grad = args[0] if upstream is None else upstream
            columns = gather(rows, indices, weights)
            if groups == 1:
                grad_kernel = ops.matmul(ops.transpose(columns), grad)
                grad_columns = ops.matmul(grad, ops.transpose(ops.reshape(kernel, (-1, filters))))
            else:
                grad_groups = ops.reshape(grad, (-1, *split_filters))
                grad_kernel = ops.einsum("pkgc,pgf->kcgf", columns, grad_groups)
                grad_columns = ops.einsum("pgf,kcgf->pkgc", grad_groups, split_kernel)
            grad_kernel = ops.reshape(grad_kernel, kernel.shape)
            grad_columns = ops.reshape(grad_columns, (*ops.shape(indices[0]), rows.shape[-1]))
            grad_rows, grad_weights = weighted_gather_gradient(grad_columns, rows, indices, weights)
            return (grad_rows, grad_kernel, *(None for _ in indices), *grad_weights)

        return outputs, gradient

    return forward(rows, kernel, *indices, *weights)


def weighted_gather(rows, indices, weights):
    """Adds up gathered rows times their weights: `(P, S, D)`, dtype of `rows`."""
    if samples_sparsely(rows):
        columns = sparse_matmul(sparse_weights(indices, weights, rows), rows)
        return ops.reshape(columns, (*ops.shape(indices[0]), rows.shape[-1]))
    return sum(
        take_rows(rows, index) * ops.cast(weight, rows.dtype)[..., None]
        for index, weight in zip(indices, weights, strict=True)
    )


def weighted_gather_gradient(grad_columns, rows, indices, weights):
    """Gradients of `weighted_gather` to `rows` and `weights`, accumulated in at least float32."""
    accumulator = keras.backend.result_type(rows.dtype, "float32")
    num_rows, width = ops.shape(rows)
    grad_weights = []
    for index, weight in zip(indices, weights, strict=True):
        products = ops.cast(grad_columns * take_rows(rows, index), accumulator)
        grad_weights.append(ops.cast(ops.sum(products, axis=-1), weight.dtype))

    if samples_sparsely(rows):
        updates = ops.reshape(grad_columns, (-1, width))
        matrix = sparse_weights(indices, weights, rows)
        return sparse_matmul(matrix, updates, transpose=True), grad_weights
    grad_rows = 0.0
    for index, weight in zip(indices, weights, strict=True):
        updates = ops.cast(grad_columns, accumulator) * ops.cast(weight, accumulator)[..., None]
        grad_rows += scatter_add_rows(
            ops.reshape(updates, (-1, width)), ops.reshape(index, (-1,)), num_rows
        )
    return ops.cast(grad_rows, rows.dtype), grad_weights
