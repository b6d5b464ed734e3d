"""Running layers of the same structure through one traced function."""

import keras

from keras_dyhead.ops.sampling_form import chosen_form


class SharedTrace:
    """Calls layers that differ in nothing but their weights; TensorFlow traces only the first.

    A tower of blocks traced one by one is a graph of as many copies: Python builds, and TensorFlow
    optimizes and differentiates each. Here the block is traced once, as a function of its weights.
    In training the graph holds it once, too, and calls it. Otherwise the calls are expanded, which
    the converters to ONNX and LiteRT need.

    Outside `tf.function`, and on other backends, the layers are called as they are.

    Args:
        layer: The built layer that lends its structure.
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
        mode = (form, training)  # all that the trace depends on beside the arguments
        if mode not in self._functions:
            attributes = {"_noinline": True} if training else None
            self._functions[mode] = tf.function(
                self._call_with, autograph=False, experimental_attributes=attributes
            )
        weights = [tf.convert_to_tensor(variable.value) for variable in layer.variables]
        if training:
            inputs = tf.nest.map_structure(_gradient_of_its_own, inputs)
        return self._functions[mode](weights, inputs)

    def _call_with(self, weights, inputs):
        mapping = list(zip(self._layer.variables, weights, strict=True))
        with keras.StatelessScope(mapping):
            return self._layer(inputs)


def _gradient_of_its_own(x):
    """Returns `x`, whose gradient then comes from another node than that of any other tensor.

    The gradients of all inputs are outputs of the one node that calls the function. TensorFlow's
    oneDNN pass for CPUs joins a convolution's gradient with that of a bias which comes from the
    same node, without asking from which output: convolutions before the function would exchange
    the gradients of their biases.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def identity(x):
        return tf.identity(x), lambda gradient: tf.ensure_shape(gradient, [None] * x.shape.rank)

    return identity(x)
