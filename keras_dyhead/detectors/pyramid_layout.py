"""The layout of a detector's flat outputs over the pyramid levels."""

import keras
import numpy as np
from keras import ops


def stack_sizes(sizes):
    """Packs (height, width) pairs into `(L, 2)` int32, which `known_sizes` unpacks.

    On JAX, this is a NumPy array of static sizes, as compiled functions cannot read the values of
    tensors. It is all zeros, and never read, while a model of unknown image size is being built.
    """
    if keras.backend.backend() == "jax":
        known = all(isinstance(side, int) for size in sizes for side in size)
        return np.array(sizes if known else np.zeros((len(sizes), 2)), "int32")
    return ops.cast(ops.stack([ops.stack(size) for size in sizes]), "int32")


def known_sizes(level_sizes):
    """Unpacks an `(L, 2)` tensor into (height, width) pairs, of ints if statically known."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        static = tf.get_static_value(level_sizes)
    else:
        static = ops.convert_to_numpy(level_sizes)
    if static is not None:
        return [(int(height), int(width)) for height, width in static]
    return [(level_sizes[i, 0], level_sizes[i, 1]) for i in range(level_sizes.shape[0])]


def smaller(a, b):
    """Returns the minimum, as an int if both are ints: XLA requires it for `top_k`."""
    return min(a, b) if isinstance(b, int) else ops.minimum(a, b)
