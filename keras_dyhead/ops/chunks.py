"""Processes many positions in chunks, and delays work until it is needed."""

import math

import keras
from keras import ops

from keras_dyhead.ops.sampling_form import is_compiled

CHUNK_BYTES = {"cpu": 12 * 2**20, "gpu": 512 * 2**20}
"""Size of the sampled columns that exist at one time. On CPUs, a chunk fits in the outer cache, and
the next chunk reuses its memory. GPUs need large products."""

MAX_CHUNKS = 8
"""Maximum number of chunks. Beyond it, chunks grow: each adds a whole gradient to those before it,
and time would otherwise grow with the square of the number of positions."""


def num_chunks(positions, column_shape, dtype, most=MAX_CHUNKS):
    """Returns the number of chunks for positions with a column of `column_shape` each.

    It lies between 1 and `most`, and is an int if all sizes are ints. XLA on CPUs gets at least 2:
    only a loop keeps it from doing work too early (see `after`).
    """
    itemsize = 2 if "16" in keras.backend.standardize_dtype(dtype) else 4
    device = _device()
    limit = CHUNK_BYTES[device] // (math.prod(column_shape) * itemsize)
    fewest = 2 if device == "cpu" and for_xla() else 1
    if isinstance(limit, int) and isinstance(positions, int):
        return max(fewest, min(most, -(-positions // max(1, limit))))
    return ops.clip(-(-positions // ops.maximum(limit, 1)), fewest, most)


def scan_chunks(function, carry, arrays, chunks, like):
    """Calls `carry, outputs = function(carry, chunk_of_arrays)` for one chunk after another.

    Args:
        function: Callable. Its outputs have the length of the chunk.
        carry: Tuple of tensors, the initial carry.
        arrays: Tensors `(P, ...)` to split.
        chunks: Number of chunks, int or scalar tensor.
        like: For each output, its shape without the first axis, and its dtype.

    Returns:
        The final carry, and the outputs `(P, ...)`.
    """
    if isinstance(chunks, int) and chunks == 1:
        return function(carry, arrays)
    positions = ops.shape(arrays[0])[0]
    length = -(-positions // chunks)
    stacks = [_split(array, chunks, length) for array in arrays]
    carry, outputs = _scan(function, carry, stacks, chunks, length, like)
    outputs = [
        ops.reshape(output, (chunks * length, *shape))[:positions]
        for output, (shape, _) in zip(outputs, like, strict=True)
    ]
    return carry, outputs


def after(event, tensors):
    """Returns the tensors, for use only once `event` has been computed.

    A gradient that recomputes results instead of storing them needs this. Otherwise the runtime
    would compute them too early, or reuse those of the forward pass.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.control_dependencies([event]):
            return [tf.identity(tensor) for tensor in tensors]
    if backend == "jax":
        import jax

        return jax.lax.optimization_barrier((event, list(tensors)))[1]
    return list(tensors)


def _split(array, chunks, length):
    """Splits `(P, ...)` into `(chunks, length, ...)`, padded with zeros."""
    padding = chunks * length - ops.shape(array)[0]
    array = ops.pad(array, [(0, padding)] + [(0, 0)] * (len(array.shape) - 1))
    return ops.reshape(array, (chunks, length, *ops.shape(array)[1:]))


def _scan(function, carry, stacks, chunks, length, like):
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        def body(i, carry, outputs):
            carry, new = function(carry, [stack[i] for stack in stacks])
            outputs = [output.write(i, x) for output, x in zip(outputs, new, strict=True)]
            return i + 1, carry, outputs

        # Updating one tensor chunk by chunk would copy it for every chunk.
        outputs = [
            tf.TensorArray(dtype, chunks, element_shape=(None, *shape)) for shape, dtype in like
        ]
        _, carry, outputs = tf.while_loop(
            lambda i, *_: i < chunks, body, (0, carry, outputs), parallel_iterations=1
        )
        return carry, [output.stack() for output in outputs]
    if backend == "jax":
        import jax

        return jax.lax.scan(function, carry, stacks)
    outputs = []
    for i in range(int(chunks)):
        carry, new = function(carry, [stack[i] for stack in stacks])
        outputs.append(new)
    return carry, [ops.stack(parts) for parts in zip(*outputs, strict=True)]


def for_xla() -> bool:
    """Whether XLA compiles what is traced now. On JAX, it compiles everything."""
    backend = keras.backend.backend()
    return backend == "jax" or (backend == "tensorflow" and is_compiled())


def _device():
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return "gpu" if tf.config.list_physical_devices("GPU") else "cpu"
    if backend == "jax":
        import jax

        return "cpu" if jax.default_backend() == "cpu" else "gpu"
    import torch

    return "gpu" if torch.cuda.is_available() else "cpu"
