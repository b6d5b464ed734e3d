"""Joins, gathers, sums and splits rows, in the form that suits each backend."""

import keras
from keras import ops


class MapRows:
    """The pixels of several maps `(B, H, W, C)` as rows, one map after the other.

    Attributes:
        values: `(B, R, C)`.
        sizes: (height, width) of each map.
        starts: Number of each map's first row.
    """

    def __init__(self, maps):
        self.sizes = [ops.shape(x)[1:3] for x in maps]
        counts = [height * width for height, width in self.sizes]
        self.starts = [sum(counts[:i]) for i in range(len(counts))]
        self.values = ops.concatenate(
            [
                ops.reshape(x, (-1, count, x.shape[-1]))
                for x, count in zip(maps, counts, strict=True)
            ],
            axis=1,
        )


def take_rows(rows, index):
    """Gathers `rows[index]`. The index must be in range."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(rows, index)
    if rows.shape[0] == 0:  # empty batch; JAX needs at least one row
        return ops.zeros((*index.shape, *rows.shape[1:]), rows.dtype)
    if keras.backend.backend() == "jax":
        return rows.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)
    return ops.take(rows, index, axis=0)


def scatter_add_rows(total, updates, index):
    """Adds each row of `updates` `(N, D)` to row `index` `(N,)` of `total` `(R, D)`."""
    backend = keras.backend.backend()
    if backend == "jax":
        return total.at[index].add(updates, mode="promise_in_bounds", wrap_negative_indices=False)
    if backend == "torch":
        return total.index_add(0, index, updates)
    import tensorflow as tf

    return total + tf.math.unsorted_segment_sum(updates, index, ops.shape(total)[0])


def transposed_matmul(a, b):
    """Computes `a.T @ b` for (stacks of) matrices, without a copy of `a` on TensorFlow."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.matmul(a, b, transpose_a=True)
    return ops.swapaxes(a, -2, -1) @ b


def split_rows(tensor, sizes):
    """Splits axis 1 into parts of the given sizes (ints or scalar tensors)."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.split(tensor, sizes, axis=1, num=len(sizes))
    if len(sizes) == 1:  # Keras cannot split into one part on PyTorch
        return [tensor]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return ops.split(tensor, ends, axis=1)


def split_maps(rows, sizes) -> list:
    """Turns the rows `(B, R, C)` of several maps into the maps again; the reverse of `MapRows`."""
    parts = split_rows(rows, [height * width for height, width in sizes])
    pairs = zip(parts, sizes, strict=True)
    return [ops.reshape(part, (-1, *size, rows.shape[-1])) for part, size in pairs]
