"""Runs the blocks of a tower through one trace."""

import keras
from keras import ops

from keras_dyhead.ops.sampling_form import chosen_form, is_compiled


class SharedTrace:
    """Calls blocks that differ only in their weights; the compiler sees only one of them.

    If each block of a stack were traced, the graph would contain a copy per block. Python would
    build each copy, and the backend would optimize and differentiate it. Here one block is traced,
    as a function of its weights.

    TensorFlow's own runtime gets a function. In training, the graph contains it once and calls it.
    Otherwise the calls are inlined, as the converters to ONNX and LiteRT require.

    XLA gets a loop in training. It would inline the calls of a function. Worse, it would compile a
    step again for each change of a weight: TensorFlow's functions pass shapes to their gradients,
    and to know them, XLA takes all arguments for constants.

    Otherwise the blocks are called directly, also if they differ in more than their weights, such
    as with LoRA in one of them.

    Args:
        blocks: Built blocks. The output of each has the structure and the shapes of its input.
    """

    def __init__(self, blocks):
        self._blocks = list(blocks)
        self._functions = {}

    def __call__(self, inputs, training: bool = False):
        """Passes a list of maps through all blocks."""
        form = self._form(inputs, training)
        if form != "direct" and not _are_alike(self._blocks):
            form = "direct"
        if form == "loop":
            return self._loop(inputs)
        for block in self._blocks:
            if form == "function":
                inputs = self._call_function(block, inputs, training)
            else:
                inputs = block(inputs)
        return inputs

    def _form(self, inputs, training):
        backend = keras.backend.backend()
        loop = training and len(self._blocks) > 1
        if backend == "tensorflow":
            import tensorflow as tf

            if tf.executing_eagerly():
                return "direct"
            if not is_compiled():
                return "function"
            return "loop" if loop else "direct"
        if backend == "jax" and loop:
            import jax

            return "loop" if any(isinstance(x, jax.core.Tracer) for x in inputs) else "direct"
        return "direct"

    def _loop(self, inputs):
        weights = [ops.stack(values) for values in zip(*map(_values, self._blocks), strict=True)]
        if keras.backend.backend() == "tensorflow":
            from keras_dyhead.layers.block_loop import loop_over_blocks

            return loop_over_blocks(self._blocks[0], weights, inputs)
        import jax

        return jax.lax.scan(lambda x, w: (self._call_with(w, x), None), inputs, weights)[0]

    def _call_function(self, block, inputs, training):
        import tensorflow as tf

        form = chosen_form(block.compute_dtype)
        mode = (form, training)  # what else the trace depends on
        if mode not in self._functions:
            attributes = {"_noinline": True} if training else None
            self._functions[mode] = tf.function(
                self._call_with, autograph=False, experimental_attributes=attributes
            )
        if training:
            inputs = tf.nest.map_structure(_separate_gradient, inputs)
        # A variable of several replicas, passed as it is, would get no gradient.
        weights = [tf.convert_to_tensor(value) for value in _values(block)]
        return self._functions[mode](weights, inputs)

    def _call_with(self, weights, inputs):
        mapping = list(zip(self._blocks[0].variables, weights, strict=True))
        with keras.StatelessScope(mapping):
            return self._blocks[0](inputs)


def _are_alike(blocks) -> bool:
    """Whether the layers of all blocks have the same arguments; names and freezing do not count."""
    ignored = dict.fromkeys(("name", "trainable", "frozen"))
    layers = [[x.get_config() | ignored for x in block._flatten_layers()] for block in blocks]
    return all(other == layers[0] for other in layers)


def _values(block):
    return [ops.convert_to_tensor(variable.value) for variable in block.variables]


def _separate_gradient(x):
    """Returns `x`, with a gradient that comes from a separate node of the graph.

    The gradients of all inputs are outputs of the one node that calls the function. TensorFlow's
    oneDNN pass for CPUs fuses a convolution's gradient with a bias gradient from the same node,
    whichever output that is: convolutions before the function would swap the gradients of their
    biases.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def identity(x):
        return tf.identity(x), lambda gradient: tf.ensure_shape(gradient, [None] * x.shape.rank)

    return identity(x)
