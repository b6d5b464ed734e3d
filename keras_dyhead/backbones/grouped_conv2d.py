"""Grouped convolution without Keras' detour."""

import keras


@keras.saving.register_keras_serializable(package="keras_dyhead")
class GroupedConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` in groups, computed by TensorFlow's own kernel.

    On TensorFlow, Keras compiles every grouped convolution with XLA, once per image size. That
    takes seconds each for the gradient, runs slower than the kernel used here, and has no form in
    ONNX and LiteRT.

    Args:
        *args: As in `keras.layers.Conv2D`.
        **kwargs: As in `keras.layers.Conv2D`.
    """

    def convolution_op(self, inputs, kernel):
        """Convolves channels-last maps."""
        if keras.backend.backend() != "tensorflow":
            return super().convolution_op(inputs, kernel)
        import tensorflow as tf

        return tf.nn.conv2d(inputs, kernel, self.strides, self.padding.upper())
