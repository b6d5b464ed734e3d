"""Runs layers of the same structure, one after the other, through one trace."""

import keras
from keras import ops

from keras_dyhead.ops.sampling_form import chosen_form, is_compiled


class SharedTrace:
    """Calls layers that differ only in their weights; the compiler sees only one of them.

    If each block of a stack were traced, the graph would contain a copy per block. Python would
    build each copy, and the backend would optimize and differentiate it. Here one block is traced,
    as a function of its weights.

    TensorFlow's own runtime gets a function. In training, the graph contains it once and calls it.
    Otherwise the calls are inlined, as the converters to ONNX and LiteRT require. JAX gets a loop
    over stacked weights in training.

    TensorFlow's functions do not suit XLA. They pass shapes to their gradients, so XLA would take
    their arguments for constants, and compile a step again for each change of a weight. Under XLA,
    and outside a trace, the layers are called directly.

    Args:
        layers: Built layers. The output of each has the structure and the shapes of its input.
    """

    def __init__(self, layers):
        self._layers = list(layers)
        self._functions = {}

    def __call__(self, inputs, training: bool = False):
        """Passes a list of tensors through all layers."""
        backend = keras.backend.backend()
        if backend == "jax" and training and len(self._layers) > 1:
            import jax

            if any(isinstance(x, jax.core.Tracer) for x in inputs):
                return self._scan(inputs)
        traced = False
        if backend == "tensorflow":
            import tensorflow as tf

            traced = not tf.executing_eagerly() and not is_compiled()
        for layer in self._layers:
            inputs = self._call_function(layer, inputs, training) if traced else layer(inputs)
        return inputs

    def _scan(self, inputs):
        import jax

        weights = [ops.stack(values) for values in zip(*map(_values, self._layers), strict=True)]
        return jax.lax.scan(lambda x, w: (self._call_with(w, x), None), inputs, weights)[0]

    def _call_function(self, layer, inputs, training):
        import tensorflow as tf

        form = chosen_form(layer.compute_dtype)
        mode = (form, training)  # what else the trace depends on
        if mode not in self._functions:
            attributes = {"_noinline": True} if training else None
            self._functions[mode] = tf.function(
                self._call_with, autograph=False, experimental_attributes=attributes
            )
        if training:
            inputs = tf.nest.map_structure(_separate_gradient, inputs)
        return self._functions[mode](_values(layer), inputs)

    def _call_with(self, weights, inputs):
        mapping = list(zip(self._layers[0].variables, weights, strict=True))
        with keras.StatelessScope(mapping):
            return self._layers[0](inputs)


def _values(layer):
    return [ops.convert_to_tensor(variable.value) for variable in layer.variables]


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
