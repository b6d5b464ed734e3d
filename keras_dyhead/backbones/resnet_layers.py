"""The layers of ResNets that Keras lacks."""

import keras
from keras import ops

from keras_dyhead.ops.arguments import at_least_float32


@keras.saving.register_keras_serializable(package="keras_dyhead")
class FrozenBatchNormalization(keras.layers.Layer):
    """Normalizes channels by stored means and variances, even in training.

    Published detectors are trained with too few images per device for batch statistics, so they
    keep those of the pretrained backbone. Setting `trainable = True` on a model does not unfreeze
    these weights. Weights and arithmetic are at least float32 under every dtype policy.
    `train_affine` trains the scale `gamma` and the shift `beta`.

    Source: `FrozenBatchNorm2d` of detectron2; with `train_affine`, `norm_eval` of mmdetection.
    """

    def __init__(self, train_affine: bool = False, epsilon: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        self.train_affine = train_affine
        self.epsilon = epsilon

    def build(self, input_shape):

        def add(name, initializer, trainable=False):
            return self.add_weight(
                name=name,
                shape=(input_shape[-1],),
                initializer=initializer,
                trainable=trainable,
                dtype=at_least_float32(self.variable_dtype),
                autocast=False,
            )

        self.gamma = add("gamma", "ones", self.train_affine)
        self.beta = add("beta", "zeros", self.train_affine)
        self.moving_mean = add("moving_mean", "zeros")
        self.moving_variance = add("moving_variance", "ones")
        self.built = True

    def call(self, inputs):
        scale = self.gamma * ops.rsqrt(self.moving_variance + self.epsilon)
        shift = self.beta - self.moving_mean * scale
        return ops.cast(ops.cast(inputs, scale.dtype) * scale + shift, self.compute_dtype)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self):
        return super().get_config() | {"train_affine": self.train_affine, "epsilon": self.epsilon}


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

        options = {"strides": (1, *self.strides, 1), "padding": self.padding.upper()}
        if tf.config.list_logical_devices("GPU"):
            return tf.nn.conv2d(inputs, kernel, **options)

        @tf.custom_gradient
        def convolve(x, kernel):
            def gradient(upstream):
                grads_x, grads_kernel = [], []
                parts = (tf.split(t, self.groups, axis=-1) for t in (x, kernel, upstream))
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

            return tf.nn.conv2d(x, kernel, **options), gradient

        return convolve(inputs, tf.convert_to_tensor(kernel))
