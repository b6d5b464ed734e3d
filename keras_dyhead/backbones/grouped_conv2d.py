"""Grouped convolution that does not need XLA on TensorFlow."""

import keras


@keras.saving.register_keras_serializable(package="keras_dyhead")
class GroupedConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` with groups, computed by TensorFlow's own kernel.

    On TensorFlow, Keras compiles every grouped convolution with XLA, once per image size. That
    takes seconds for each gradient, runs slower than this kernel, and does not export to ONNX and
    LiteRT. The kernel's own gradient needs a GPU, or a CPU on which TensorFlow enables oneDNN.
    Without a GPU, gradients are computed group by group.
    """

    def convolution_op(self, inputs, kernel):
        if keras.backend.backend() != "tensorflow":
            return super().convolution_op(inputs, kernel)
        import tensorflow as tf

        if tf.config.list_logical_devices("GPU"):
            return tf.nn.conv2d(inputs, kernel, self.strides, self.padding.upper())
        kernel = tf.convert_to_tensor(kernel)
        return _convolve(inputs, kernel, self.strides, self.padding.upper(), self.groups)


def _convolve(inputs, kernel, strides, padding, groups):
    """`tf.nn.conv2d` with its gradient computed group by group."""
    import tensorflow as tf

    options = {"strides": (1, *strides, 1), "padding": padding}

    @tf.custom_gradient
    def convolve(x, kernel):
        def gradient(upstream):
            grads_x, grads_kernel = [], []
            parts = (tf.split(tensor, groups, axis=-1) for tensor in (x, kernel, upstream))
            for maps, weights, out in zip(*parts, strict=True):
                grads_x.append(
                    tf.raw_ops.Conv2DBackpropInput(
                        input_sizes=tf.shape(maps), filter=weights, out_backprop=out, **options
                    )
                )
                grads_kernel.append(
                    tf.raw_ops.Conv2DBackpropFilter(
                        input=maps, filter_sizes=weights.shape, out_backprop=out, **options
                    )
                )
            return tf.concat(grads_x, axis=-1), tf.concat(grads_kernel, axis=-1)

        return tf.nn.conv2d(x, kernel, strides, padding), gradient

    return convolve(inputs, kernel)
