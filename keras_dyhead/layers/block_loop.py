"""A loop over blocks, for XLA on TensorFlow."""

import keras
import tensorflow as tf

from keras_dyhead.layers.spatial_attention import BRANCHES


def loop_over_blocks(block, weights, inputs):
    """Passes the levels of a pyramid through blocks that differ only in their weights.

    XLA compiles the loop's body once. TensorFlow's own gradient of a loop needs all shapes when it
    is traced, and does not work outside the compiled function. This gradient does: it stores dense
    tensors only, the inputs of each block and the convolved maps. Then it computes the rest of the
    block again. The convolutions are traced again, too, but their products are not computed.

    Args:
        block: A built `DyHeadBlock` with the structure of all.
        weights: For each variable of a block, its values in all blocks, stacked.
        inputs: List of maps.

    Returns:
        List of maps like the inputs.
    """
    blocks, levels = weights[0].shape[0], len(inputs)
    branch_of_map = [branch for branch in BRANCHES for _ in range(levels - (branch != "mid"))]
    shapes = [x.shape for x in inputs] + [None] * len(branch_of_map)

    def convolve(weights, inputs):
        with keras.StatelessScope(list(zip(block.variables, weights, strict=True))):
            maps = block.spatial_attention.convolve(inputs)
        return [x for branch in BRANCHES for x in maps[branch]]

    def attend(weights, maps):
        pairs = list(zip(branch_of_map, maps, strict=True))
        maps = {branch: [x for name, x in pairs if name == branch] for branch in BRANCHES}
        with keras.StatelessScope(list(zip(block.variables, weights, strict=True))):
            return block.attend(maps)

    @tf.custom_gradient
    def forward(*tensors):
        inputs, stacks = list(tensors[:levels]), tensors[levels:]

        def run(i, inputs, stored):
            weights = [stack[i] for stack in stacks]
            maps = convolve(weights, inputs)
            shapes[levels:] = [x.shape for x in maps]
            return attend(weights, maps), _write(stored, i, [*inputs, *maps])

        arrays = _arrays([inputs[0].dtype] * len(shapes), blocks)
        outputs, stored = _repeat(blocks, run, inputs, arrays)
        stored = [array.stack() for array in stored]

        def gradient(*upstream):
            def run_back(step, upstream, grad_stacks):
                i = blocks - 1 - step
                weights = [stack[i] for stack in stacks]
                saved = [tf.ensure_shape(x[i], y) for x, y in zip(stored, shapes, strict=True)]
                upstream, grads = _vjp(attend, weights, saved[levels:], upstream)
                upstream, more_grads = _vjp(convolve, weights, saved[:levels], upstream)
                grads = [a + b for a, b in zip(grads, more_grads, strict=True)]
                return upstream, _write(grad_stacks, i, grads)

            arrays = _arrays([stack.dtype for stack in stacks], blocks)
            upstream, grad_stacks = _repeat(blocks, run_back, list(upstream), arrays)
            pairs = zip(grad_stacks, stacks, strict=True)
            return [*upstream, *(tf.ensure_shape(x.stack(), stack.shape) for x, stack in pairs)]

        return outputs, gradient

    return list(forward(*inputs, *weights))


def _repeat(times, body, *carry):
    """Calls `carry = body(i, *carry)` so many times."""
    return tf.while_loop(
        lambda i, *_: i < times,
        lambda i, *carry: (i + 1, *body(i, *carry)),
        (0, *carry),
        parallel_iterations=1,
        maximum_iterations=times,
    )[1:]


def _arrays(dtypes, size):
    return [tf.TensorArray(dtype, size, infer_shape=False) for dtype in dtypes]


def _write(arrays, i, values):
    return [array.write(i, x) for array, x in zip(arrays, values, strict=True)]


def _vjp(function, weights, inputs, upstream):
    """Returns the gradients of the inputs and of the weights."""
    with tf.GradientTape() as tape:
        tape.watch([weights, inputs])
        outputs = function(weights, inputs)
    return tape.gradient(outputs, [inputs, weights], upstream, unconnected_gradients="zero")
