"""A loop over blocks, for XLA on TensorFlow."""

import keras
import tensorflow as tf

from keras_dyhead.layers.spatial_attention import BRANCHES
from keras_dyhead.ops.rows import MapRows, split_maps


def loop_over_blocks(block, weights, inputs):
    """Passes the levels of a pyramid through blocks that differ only in their weights.

    XLA compiles the loop's body once. TensorFlow's own gradient of a loop needs all shapes when it
    is traced, and does not work outside the compiled function. This gradient does: it stores dense
    tensors only, the inputs of each block and the convolved maps. Then it computes the rest of the
    block again. The convolutions are traced again, too, but their products are not computed.

    The levels become rows of one tensor: XLA compiles each access to a tensor by itself.

    Args:
        block: A built `DyHeadBlock` with the structure of all.
        weights: For each variable of a block, its values in all blocks, stacked.
        inputs: List of maps.

    Returns:
        List of maps like the inputs.
    """
    blocks, pyramid = weights[0].shape[0], MapRows(inputs)
    sizes, shapes = pyramid.sizes, [pyramid.values.shape]
    coarser = sizes[1:] if block.alignment == "published" else sizes[:-1]
    of_branch = zip(BRANCHES, (sizes, sizes[1:], coarser), strict=True)
    branch_sizes = {branch: its_sizes for branch, its_sizes in of_branch if its_sizes}

    def convolve(weights, rows):
        with keras.StatelessScope(list(zip(block.variables, weights, strict=True))):
            maps = block.spatial_attention.convolve(split_maps(rows, sizes))
        return [MapRows(maps[branch]).values for branch in branch_sizes]

    def attend(weights, convolved):
        pairs = zip(convolved, branch_sizes.items(), strict=True)
        maps = {branch: split_maps(rows, its_sizes) for rows, (branch, its_sizes) in pairs}
        with keras.StatelessScope(list(zip(block.variables, weights, strict=True))):
            return MapRows(block.attend(maps)).values

    @tf.custom_gradient
    def forward(rows, *stacks):
        def run(i, rows, stored):
            weights = [stack[i] for stack in stacks]
            convolved = convolve(weights, rows)
            shapes[1:] = [x.shape for x in convolved]
            return attend(weights, convolved), _write(stored, i, [rows, *convolved])

        arrays = _arrays([rows.dtype] * (1 + len(branch_sizes)), blocks)
        outputs, stored = _repeat(blocks, run, rows, arrays)
        stored = [array.stack() for array in stored]

        def gradient(upstream):
            def run_back(step, upstream, grad_stacks):
                i = blocks - 1 - step
                weights = [stack[i] for stack in stacks]
                inputs, *convolved = (
                    tf.ensure_shape(x[i], y) for x, y in zip(stored, shapes, strict=True)
                )
                upstream, grads = _vjp(attend, weights, convolved, upstream)
                upstream, more_grads = _vjp(convolve, weights, inputs, upstream)
                grads = [a + b for a, b in zip(grads, more_grads, strict=True)]
                return upstream, _write(grad_stacks, i, grads)

            arrays = _arrays([stack.dtype for stack in stacks], blocks)
            upstream, grad_stacks = _repeat(blocks, run_back, upstream, arrays)
            pairs = zip(grad_stacks, stacks, strict=True)
            return [upstream, *(tf.ensure_shape(x.stack(), stack.shape) for x, stack in pairs)]

        return outputs, gradient

    return split_maps(forward(pyramid.values, *weights), sizes)


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
