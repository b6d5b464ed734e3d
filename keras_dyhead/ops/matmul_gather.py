"""Matrix products before sampling, for maps with fewer pixels than samples."""

from keras import ops

from keras_dyhead.ops.chunks import after
from keras_dyhead.ops.rows import take_rows, transposed_matmul
from keras_dyhead.ops.sampling_form import sparse_matmul, sparse_weights


def matmul_gather(rows, indices, weights, kernel):
    """Multiplies rows by a kernel, then sums weighted products: `gather_matmul` in reverse order.

    Output `p` is `sum_s sum_j weights[p, s, j] * (rows[indices[p, s, j]] @ kernel[s])`. Sampling is
    linear, so the products may come first. There are `R` of them instead of `P`, and no columns.

    It uses sparse products only: TensorFlow on CPUs, float32 and float64. It processes the kernel
    row by row, and stores only the arguments for the gradient.

    Args:
        rows: Tensor of shape `(R, C)`, float.
        indices: Tensor of shape `(P, S, J)`, int32, every entry in `[0, R)`.
        weights: Tensor of shape `(P, S, J)`, float.
        kernel: Tensor of shape `(kh, kw, C, F)` with `kh * kw == S`, dtype of `rows`.

    Returns:
        Tensor of shape `(P, F)`, dtype of `rows`.
    """
    import tensorflow as tf

    kernel_height, kernel_width, channels, filters = kernel.shape
    positions, num_rows = ops.shape(indices)[0], ops.shape(rows)[0]
    # Each row has `kw` consecutive products.
    tap = ops.tile(ops.arange(kernel_width, dtype="int32"), [kernel_height])
    shape = (positions, kernel_height, kernel_width * indices.shape[-1])
    indices = ops.reshape(indices * kernel_width + tap[:, None], shape)

    def multiply(rows, kernel):
        """Returns the products `(R * kw, F)` of all rows with a kernel row, `(C, kw * F)`."""
        return ops.reshape(ops.matmul(rows, kernel), (num_rows * kernel_width, filters))

    @ops.custom_gradient
    def forward(rows, kernels, weights):
        outputs = ops.zeros((positions, filters), rows.dtype)
        for i in range(kernel_height):
            (row,) = after(outputs, (rows,))  # one at a time
            products = multiply(row, kernels[i])
            matrix = sparse_weights(indices[:, i], weights[:, i], products)
            outputs = outputs + sparse_matmul(matrix, products, positions)

        def gradient(upstream):
            grad_rows, grad_kernels, grad_weights = ops.zeros_like(rows), [], []
            event = upstream
            for i in range(kernel_height):
                (again,) = after(event, (rows,))
                products = multiply(again, kernels[i])
                matrix = sparse_weights(indices[:, i], weights[:, i], products)
                num_products = num_rows * kernel_width
                grad = sparse_matmul(matrix, upstream, num_products, transpose=True)
                grad = ops.reshape(grad, (num_rows, kernel_width * filters))
                grad_kernels.append(transposed_matmul(again, grad))
                grad_rows = grad_rows + ops.matmul(grad, ops.transpose(kernels[i]))
                grad_weights.append(
                    tf.map_fn(
                        lambda index, products=products: ops.sum(
                            take_rows(products, index) * upstream, axis=-1
                        ),
                        ops.transpose(indices[:, i]),
                        parallel_iterations=1,
                        fn_output_signature=rows.dtype,
                    )
                )
                event = grad_weights[-1]
            grad_weights = ops.transpose(ops.stack(grad_weights), (2, 0, 1))
            return grad_rows, ops.stack(grad_kernels), grad_weights

        return outputs, gradient

    kernels = ops.reshape(
        ops.swapaxes(kernel, 1, 2), (kernel_height, channels, kernel_width * filters)
    )
    return forward(rows, kernels, ops.cast(ops.reshape(weights, shape), rows.dtype))
