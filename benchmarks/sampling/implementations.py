"""Our implementations on three backends.

Each takes a `Workload` and returns three things: a forward pass, which returns the outputs; a
training step, which computes all gradients of the sum of squares and returns those of the inputs;
and the package versions. Both calls return after everything is computed.
"""

import functools

import keras
import numpy as np


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


def matrix_products(workload, **options):
    """Only the matrix products of the operation: a lower bound for its time."""
    x, _, _, kernel = workload.op_arrays()
    columns = np.tile(x.reshape(-1, workload.channels), 9)
    arrays = [_tensor(a, workload.dtype) for a in (columns, kernel.reshape(-1, workload.channels))]
    return _compiled(lambda arrays, _: [keras.ops.matmul(*arrays)], arrays, None, **options)


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
