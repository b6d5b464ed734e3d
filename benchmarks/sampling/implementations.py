"""Our implementations on three backends.

Each takes a `Workload` and returns three things: a forward pass, which returns the outputs; a
training step, which computes all gradients of the sum of squares and returns those of the inputs;
and the package versions. Both calls return after everything is computed.
"""

import functools
import math

import keras
import numpy as np

from benchmarks.sampling.workload import LEVELS


def keras_op(workload, **options):
    """Our operation; offsets and mask are always float32."""
    from keras_dyhead.ops import deform_conv2d

    x, offsets, mask, kernel = workload.op_arrays()
    arrays = [_tensor(x, workload.dtype), _tensor(offsets), _tensor(mask)]
    arrays.append(_tensor(kernel, workload.dtype))
    return _compiled(lambda arrays, _: [deform_conv2d(*arrays)], arrays, None, **options)


def keras_tower(workload, alignment="published", **options):
    """Our tower; the paper's alignment samples more positions than the published one."""
    from keras_dyhead.checkpoints import load_tower
    from keras_dyhead.layers import DyHeadNeck

    pyramid = [_tensor(array, workload.dtype) for array in workload.pyramid()]
    half = workload.dtype != "float32"
    policy = f"mixed_{workload.dtype}" if half else workload.dtype
    neck = DyHeadNeck(workload.blocks, workload.channels, alignment, dtype=policy)
    neck.build([x.shape for x in pyramid])
    load_tower(neck, workload.tower_state())
    return _compiled(lambda maps, training: neck(maps, training=training), pyramid, neck, **options)


def matrix_products(workload, tower=False, **options):
    """Only the matrix products of the operation or the tower: a lower bound for their time.

    Those of a block with published alignment run once for each block, on the same arrays.
    """
    rng, channels = np.random.default_rng(0), workload.channels
    sizes = [workload.batch * math.prod(workload.map_size(level)) for level in LEVELS]
    products = [(sizes[0], channels)]
    if tower:  # mid, low, high, offsets and masks
        all_levels, coarser = sum(sizes), sum(sizes[1:])
        products = [(all_levels, channels), *[(coarser, channels)] * 2, (all_levels, 27)]
    shapes = [
        shape for rows, width in products for shape in ((rows, 9 * channels), (9 * channels, width))
    ]
    arrays = [_tensor(rng.normal(size=shape).astype("float32"), workload.dtype) for shape in shapes]

    def multiply(arrays, _):
        return [keras.ops.matmul(*pair) for pair in zip(arrays[::2], arrays[1::2], strict=True)]

    *calls, version = _compiled(multiply, arrays, None, **options)
    blocks = workload.blocks if tower else 1
    return *(functools.partial(_repeat, call, blocks) for call in calls), version


def _repeat(call, times):
    return [call() for _ in range(times)][-1]


def _tensor(array, dtype="float32"):
    return keras.ops.convert_to_tensor(array, dtype)


def _compiled(function, inputs, layer, xla=False):
    """Compiles `function(inputs, training)` as users would."""
    backend = keras.backend.backend()
    variables = layer.trainable_variables if layer else []
    if backend == "torch":
        from benchmarks.sampling.torch_peer import torch_calls

        sources = [*inputs, *(variable.value for variable in variables)]
        run = functools.partial(function, inputs)
        *calls, version = torch_calls(run, sources, len(inputs))
        return *calls, f"Keras {keras.__version__}, {version}"
    if backend == "jax":
        return _jax(function, inputs, variables)
    return _tensorflow(function, inputs, [variable.value for variable in variables], xla)


def _tensorflow(function, inputs, variables, xla):
    import tensorflow as tf

    forward = tf.function(lambda: function(inputs, False), jit_compile=xla)

    @tf.function(jit_compile=xla)
    def step():
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.add_n([_sum_of_squares(x) for x in function(inputs, True)])
        return tape.gradient(loss, [*inputs, *variables])

    def finished(results):
        tf.test.experimental.sync_devices()
        return results

    return (
        lambda: finished(forward()),
        lambda: finished(step())[: len(inputs)],
        f"Keras {keras.__version__}, TensorFlow {tf.__version__}",
    )


def _jax(function, inputs, variables):
    import jax

    def run(inputs, values, training):
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return function(inputs, training)

    def loss(inputs, values):
        return sum(_sum_of_squares(x) for x in run(inputs, values, True))

    forward = jax.jit(lambda inputs, values: run(inputs, values, False))
    step = jax.jit(jax.grad(loss, argnums=(0, 1)))
    arguments = inputs, [variable.value for variable in variables]
    return (
        lambda: jax.block_until_ready(forward(*arguments)),
        lambda: jax.block_until_ready(step(*arguments))[0],
        f"Keras {keras.__version__}, JAX {jax.__version__}",
    )


def _sum_of_squares(x):
    return keras.ops.sum(keras.ops.square(keras.ops.cast(x, "float32")))
