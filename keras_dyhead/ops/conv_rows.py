"""A 3x3 convolution of all levels of a pyramid by one matrix product."""

import numpy as np
from keras import ops

from keras_dyhead.ops.rows import transposed_matmul

_TAPS = 9


def conv_rows(rows, kernel, sizes):
    """Convolves several maps with one 3x3 kernel and zero padding: products first, then shifts.

    Each row is multiplied by all nine taps of the kernel. An output is the sum of nine products
    with neighboring pixels. The gradient has the same form. XLA on CPUs has fast matrix products
    everywhere; the gradient of its convolution is slow inside a loop.

    Args:
        rows: Pixels of all maps, `(B, R, C)`; see `MapRows`.
        kernel: Tensor of shape `(3, 3, C, F)`, dtype of `rows`.
        sizes: (height, width) of each map, ints.

    Returns:
        Tensor of shape `(B, R, F)`.
    """
    channels, filters = kernel.shape[2:]
    neighbors = _neighbors(sizes)
    num_rows = len(neighbors)
    products_of_neighbors = np.where(
        neighbors < num_rows, neighbors * _TAPS + np.arange(_TAPS), num_rows * _TAPS
    ).astype("int32")

    def take(values, index):
        """Gathers rows of `(B, N, F)`. Row `N` is zero."""
        return ops.take(ops.pad(values, ((0, 0), (0, 1), (0, 0))), index, axis=1)

    @ops.custom_gradient
    def forward(rows, matrix):
        products = ops.reshape(rows @ matrix, (-1, num_rows * _TAPS, filters))
        outputs = sum(take(products, products_of_neighbors[:, k]) for k in range(_TAPS))

        def gradient(*args, upstream=None):
            grad = args[0] if upstream is None else upstream
            # The pixel to the left of a pixel has it to its right.
            grad = ops.reshape(take(grad, neighbors[:, ::-1]), (-1, num_rows, _TAPS * filters))
            flat = [ops.reshape(x, (-1, x.shape[-1])) for x in (rows, grad)]
            return grad @ ops.transpose(matrix), transposed_matmul(*flat)

        return outputs, gradient

    matrix = ops.transpose(ops.reshape(kernel, (_TAPS, channels, filters)), (1, 0, 2))
    return forward(rows, ops.reshape(matrix, (channels, _TAPS * filters)))


def _neighbors(sizes):
    """Returns the row numbers of the pixels around each pixel, `(R, 9)`; `R` outside the map."""
    tables, start = [], 0
    num_rows = sum(height * width for height, width in sizes)
    for height, width in sizes:
        numbers = start + np.arange(height * width, dtype="int32").reshape(height, width)
        padded = np.pad(numbers, 1, constant_values=num_rows)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
        tables.append(windows.reshape(-1, _TAPS))
        start += height * width
    return np.concatenate(tables)
