"""Which pyramid level the flat outputs of a detector come from."""

import keras
import numpy as np
from keras import ops


def stack_sizes(sizes):
    """Packs (height, width) pairs into `(L, 2)` int32, which `known_sizes` unpacks.

    On JAX, where sizes are always known, it is a NumPy array: a compiled function cannot look into
    its tensors. While a model of open height and width is built, they are symbols, and nobody looks
    at the values.
    """
    if keras.backend.backend() == "jax":
        known = all(isinstance(side, int) for size in sizes for side in size)
        return np.array(sizes if known else np.zeros((len(sizes), 2)), "int32")
    return ops.cast(ops.stack([ops.stack(size) for size in sizes]), "int32")


def known_sizes(level_sizes):
    """Unpacks a `(L, 2)` tensor into (height, width) pairs, of ints where the graph knows them."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        static = tf.get_static_value(level_sizes)
    else:
        static = ops.convert_to_numpy(level_sizes)
    if static is not None:
        return [(int(height), int(width)) for height, width in static]
    return [(level_sizes[i, 0], level_sizes[i, 1]) for i in range(level_sizes.shape[0])]


def sizes_for(canvas, levels):
    """Returns the (height, width) of each level on a canvas: stride `2**level`, rounded up."""
    height, width = canvas
    return [(-(-height // 2**level), -(-width // 2**level)) for level in levels]


def sizes_that_fit(num_cells, canvases, levels):
    """Returns the level sizes of the first canvas that has `num_cells` cells.

    Raises:
        ValueError: If none has.
    """
    for canvas in canvases:
        sizes = sizes_for(canvas, levels)
        if sum(height * width for height, width in sizes) == num_cells:
            return sizes
    raise ValueError(
        f"Cannot tell how the outputs of {num_cells} cells are spread over the levels: none of "
        f"the image sizes {canvases} has as many. Pass `level_sizes` (L, 2) along with the raw "
        "outputs, as `model(images)` does, or the `image_sizes` they were computed for."
    )


def smaller(a, b):
    """Returns the minimum as an int where both are ints: XLA needs that of `top_k`."""
    return min(a, b) if isinstance(b, int) else ops.minimum(a, b)
