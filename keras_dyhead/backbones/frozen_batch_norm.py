"""Batch normalization that always uses its stored statistics."""

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
