"""Sampling: a weighted gather of rows and one matrix product, in chunks."""

from keras import ops

from keras_dyhead.ops.arguments import at_least_float32
from keras_dyhead.ops.chunks import after, num_chunks, scan_chunks
from keras_dyhead.ops.rows import scatter_add_rows, take_rows, transposed_matmul
from keras_dyhead.ops.sampling_form import chosen_form, sparse_matmul, sparse_weights


def gather_matmul(rows, indices, weights, kernel, groups: int = 1):
    """Multiplies weighted sums of gathered rows by a kernel: `columns(rows) @ kernel`.

    Column `s` of output position `p` is `sum_j weights[p, s, j] * rows[indices[p, s, j]]`.
    Deformable convolution is this operation with the four bilinear corners as `j` and the taps of
    the kernel as `s`.

    The columns are `K` times as large as a map, and are never stored for the gradient. The gradient
    starts from the arguments once the upstream gradient exists, and gathers again, one chunk of
    positions at a time (see `chunks.num_chunks`).

    Args:
        rows: Tensor of shape `(R, D)`, float.
        indices: Tensor of shape `(P, S, J)`, int32, every entry in `[0, R)`.
        weights: Tensor of shape `(P, S, J)`, at least float32.
        kernel: Tensor of shape `(K, C // groups, F)` with `K * C == S * D`, dtype of `rows`.
        groups: Number of groups of input and output channels.

    Returns:
        Tensor of shape `(P, F)`, dtype of `rows`.
    """
    positions, samples, num_corners = ops.shape(indices)
    column_shape = (samples, rows.shape[-1])
    filters = kernel.shape[-1]
    accumulator = at_least_float32(rows.dtype)
    chunks = num_chunks(positions, column_shape, rows.dtype)
    sparse = chosen_form(rows.dtype) == "sparse"  # the gradient may be traced elsewhere

    @ops.custom_gradient
    def forward(rows, kernel, indices, weights):
        def outputs_of_chunk(_, corners):
            return (), (_multiply(weighted_gather(rows, *corners, sparse), kernel, groups),)

        # Converters to ONNX and LiteRT cannot handle a loop. They never see sparse products.
        _, (outputs,) = scan_chunks(
            outputs_of_chunk,
            carry=(),
            arrays=(indices, weights),
            chunks=chunks if sparse else 1,
            like=[((filters,), rows.dtype)],
        )

        def gradient(*args, upstream=None):
            grad = args[0] if upstream is None else upstream
            # Otherwise the runtime would gather during the forward pass and keep the result.
            rows_again, *corners = after(grad, (rows, indices, weights))

            def gradients_of_chunk(sums, arrays):
                (grad_rows, sum_of_kernels), (grad, indices, weights) = sums, arrays
                grad_columns = _multiply_back(grad, kernel, groups, column_shape)
                columns, grad_rows, grad_weights = weighted_gather_gradient(
                    grad_columns, rows_again, indices, weights, grad_rows, sparse
                )
                grad_kernel = _multiply_columns(columns, grad, kernel.shape, groups)
                sum_of_kernels = sum_of_kernels + ops.cast(grad_kernel, accumulator)
                return (grad_rows, sum_of_kernels), (grad_weights,)

            (grad_rows, grad_kernel), (grad_weights,) = scan_chunks(
                gradients_of_chunk,
                (ops.zeros(ops.shape(rows), accumulator), ops.zeros(kernel.shape, accumulator)),
                (grad, *corners),
                chunks,
                like=[((samples, num_corners), weights.dtype)],
            )
            return (
                ops.cast(grad_rows, rows.dtype),
                ops.cast(grad_kernel, kernel.dtype),
                None,
                grad_weights,
            )

        return outputs, gradient

    return forward(rows, kernel, indices, weights)


def weighted_gather(rows, indices, weights, sparse):
    """Sums gathered rows times their weights: `(P, S, D)`, dtype of `rows`."""
    if sparse:
        positions, samples, _ = ops.shape(indices)
        matrix = sparse_weights(indices, weights, rows)
        columns = sparse_matmul(matrix, rows, positions * samples)
        return ops.reshape(columns, (positions, samples, rows.shape[-1]))
    # One corner at a time: XLA fuses gathers and sum, and other runtimes hold one corner only.
    weights = ops.cast(weights, rows.dtype)
    return sum(
        take_rows(rows, indices[..., j]) * weights[..., j, None] for j in range(indices.shape[-1])
    )


def weighted_gather_gradient(grad_columns, rows, indices, weights, grad_rows, sparse):
    """Gathers again and returns the columns and the gradients of `rows` and `weights`.

    The gradient of `rows` is added to `grad_rows`, in the dtype of `grad_rows`.
    """
    accumulator = grad_rows.dtype

    def dots(corners):
        products = ops.cast(grad_columns * corners, accumulator)
        return ops.cast(ops.sum(products, axis=-1), weights.dtype)

    corners, grad_weights, next_rows = range(indices.shape[-1]), [], rows
    for j in corners:
        grad_weights.append(dots(take_rows(next_rows, indices[..., j])))
        if sparse:  # TensorFlow would compute several at once, and hold each in memory
            (next_rows,) = after(grad_weights[-1], (rows,))
    grad_weights = ops.stack(grad_weights, axis=-1)
    updates = ops.reshape(grad_columns, (-1, rows.shape[-1]))
    if sparse:
        matrix = sparse_weights(indices, weights, rows)
        columns = sparse_matmul(matrix, rows, ops.shape(updates)[0])
        columns = ops.reshape(columns, ops.shape(grad_columns))
        num_rows = ops.shape(rows)[0]
        grad_rows = grad_rows + sparse_matmul(matrix, updates, num_rows, transpose=True)
        return columns, grad_rows, grad_weights
    updates = ops.cast(updates, accumulator)
    for j in corners:
        factors = ops.cast(ops.reshape(weights[..., j], (-1, 1)), accumulator)
        index = ops.reshape(indices[..., j], (-1,))
        grad_rows = scatter_add_rows(grad_rows, updates * factors, index)
    return weighted_gather(rows, indices, weights, sparse), grad_rows, grad_weights


# With groups, one batched product: `einsum` would take two to three times as long on CPUs.


def _multiply(columns, kernel, groups):
    """Multiplies `(P, S, D)` columns by the kernel: `(P, F)`."""
    taps, width, filters = kernel.shape
    if groups == 1:
        columns = ops.reshape(columns, (-1, taps * width))
        return columns @ ops.reshape(kernel, (-1, filters))
    columns = _group_columns(columns, kernel.shape, groups)
    outputs = columns @ _group_channels(kernel, groups)
    return ops.reshape(ops.swapaxes(outputs, 0, 1), (-1, filters))


def _multiply_back(grad, kernel, groups, column_shape):
    """Computes the gradient of `_multiply` with respect to the columns."""
    taps, width, filters = kernel.shape
    if groups == 1:
        columns = grad @ ops.transpose(ops.reshape(kernel, (-1, filters)))
    else:
        kernel = ops.swapaxes(_group_channels(kernel, groups), 1, 2)
        columns = _group_channels(grad, groups) @ kernel
        columns = ops.transpose(ops.reshape(columns, (groups, -1, taps, width)), (1, 2, 0, 3))
    return ops.reshape(columns, (-1, *column_shape))


def _multiply_columns(columns, grad, kernel_shape, groups):
    """Computes the gradient of `_multiply` with respect to the kernel."""
    taps, width, _ = kernel_shape
    if groups == 1:
        columns = ops.reshape(columns, (-1, taps * width))
        return ops.reshape(transposed_matmul(columns, grad), kernel_shape)
    columns = _group_columns(columns, kernel_shape, groups)
    kernel = transposed_matmul(columns, _group_channels(grad, groups))
    return ops.reshape(ops.swapaxes(kernel, 0, 1), kernel_shape)


def _group_columns(columns, kernel_shape, groups):
    """Reshapes `(P, S, D)` columns to `(groups, P, K * C / groups)`."""
    taps, width, _ = kernel_shape
    columns = ops.transpose(ops.reshape(columns, (-1, taps, groups, width)), (2, 0, 1, 3))
    return ops.reshape(columns, (groups, -1, taps * width))


def _group_channels(tensor, groups):
    """Reshapes `(..., F)` to `(groups, N, F / groups)`."""
    return ops.swapaxes(ops.reshape(tensor, (-1, groups, tensor.shape[-1] // groups)), 0, 1)
