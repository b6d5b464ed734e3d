"""Bilinear resizing with aligned corners, which `keras.ops.image.resize` does not offer."""

import keras
import numpy as np
from keras import ops

from keras_dyhead.ops.arguments import float_tensor, pair


def resize_align_corners(inputs, size):
    """Resizes maps bilinearly so that the corner pixels keep their values.

    Output row `i` reads input position `i * (H - 1) / (size[0] - 1)`, as
    `torch.nn.functional.interpolate(mode="bilinear", align_corners=True)` does.

    Args:
        inputs: Tensor of shape `(B, H, W, C)`; integers are converted to float32.
        size: Int or pair `(height, width)` of ints or scalar int32 tensors.

    Returns:
        Tensor of shape `(B, height, width, C)`, dtype of `inputs`.

    Raises:
        ValueError: If `inputs` do not have 4 dimensions or no pixel, or `size` is invalid.

    Example:

    >>> x = keras.ops.reshape(keras.ops.arange(4.0), (1, 2, 2, 1))
    >>> keras.ops.squeeze(resize_align_corners(x, (3, 3)))
    [[0. , 0.5, 1. ], [1. , 1.5, 2. ], [2. , 2.5, 3. ]]
    """
    inputs = float_tensor(inputs)
    if len(inputs.shape) != 4 or 0 in inputs.shape[1:]:
        raise ValueError(
            "`inputs` must have 4 dimensions and at least one pixel. "
            f"Received: shape {inputs.shape}"
        )
    if not any(ops.is_tensor(side) for side in keras.tree.flatten(size)):
        size = pair(size, "size")
    _, height, width, channels = ops.shape(inputs)
    rows = ops.cast(_interpolation_matrix(height, size[0]), inputs.dtype)
    columns = ops.cast(_interpolation_matrix(width, size[1]), inputs.dtype)
    outputs = ops.matmul(rows, ops.reshape(inputs, (-1, height, width * channels)))
    outputs = ops.matmul(columns, ops.reshape(outputs, (-1, size[0], width, channels)))
    return ops.cast(outputs, inputs.dtype)  # Keras multiplies float64 in float32 on PyTorch


def mean_after_resize(inputs, size):
    """Returns the means that maps have after `resize_align_corners`: `(B, C)`."""
    _, height, width, channels = ops.shape(inputs)
    rows = ops.mean(_interpolation_matrix(height, size[0]), axis=0)
    columns = ops.mean(_interpolation_matrix(width, size[1]), axis=0)
    weights = ops.cast(ops.reshape(rows[:, None] * columns, (1, height * width)), inputs.dtype)
    means = ops.matmul(weights, ops.reshape(inputs, (-1, height * width, channels)))[:, 0]
    return ops.cast(means, inputs.dtype)


def _interpolation_matrix(size, new_size):
    """Returns the `(new_size, size)` matrix of bilinear weights, one row per output pixel."""
    if isinstance(size, int) and isinstance(new_size, int):  # a constant of the graph
        position = np.linspace(0, size - 1, new_size)
        distance = position[:, None] - np.arange(size)
        return np.maximum(1 - np.abs(distance), 0).astype("float32")
    last = ops.cast(ops.maximum(new_size - 1, 1), "float32")
    position = ops.arange(new_size, dtype="float32") * ops.cast(size - 1, "float32") / last
    distance = position[:, None] - ops.arange(size, dtype="float32")
    return ops.relu(1.0 - ops.abs(distance))
