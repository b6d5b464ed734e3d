"""Runs layers of the same structure through one traced function."""

import keras

from keras_dyhead.ops.sampling_form import chosen_form


class SharedTrace:
    """Calls layers that differ only in their weights; TensorFlow traces only one of them.

    If each block of a stack were traced, the graph would contain a copy per block. Python would
    build each copy, and TensorFlow would optimize and differentiate it. Here one block is traced,
    as a function of its weights. In training, the graph contains it once and calls it. Otherwise
    the calls are inlined, as the converters to ONNX and LiteRT require.

    Outside `tf.function`, and on other backends, the layers are called directly.

    Args:
        layer: A built layer with the structure of all.
    """

    def __init__(self, layer):
        self._layer = layer
        self._functions = {}

    def __call__(self, layer, inputs, training: bool = False):
        """Returns `layer(inputs)`."""
        if keras.backend.backend() != "tensorflow":
            return layer(inputs)
        import tensorflow as tf

        if tf.executing_eagerly():
            return layer(inputs)
        form = chosen_form(self._layer.compute_dtype)
        mode = (form, training)  # what else the trace depends on
        if mode not in self._functions:
            attributes = {"_noinline": True} if training else None
            self._functions[mode] = tf.function(
                self._call_with, autograph=False, experimental_attributes=attributes
            )
        weights = [tf.convert_to_tensor(variable.value) for variable in layer.variables]
        if training:
            inputs = tf.nest.map_structure(_separate_gradient, inputs)
        return self._functions[mode](weights, inputs)

    def _call_with(self, weights, inputs):
        mapping = list(zip(self._layer.variables, weights, strict=True))
        with keras.StatelessScope(mapping):
            return self._layer(inputs)


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
