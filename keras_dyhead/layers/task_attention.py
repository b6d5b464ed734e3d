"""Task-aware attention (π_C): switches channels on and off to favor different tasks."""

import keras
import numpy as np
from keras import ops

from keras_dyhead.layers.affine_maps import WeightedMeans, global_mean
from keras_dyhead.layers.frozen import CompositeLayer
from keras_dyhead.layers.full_precision import FullPrecisionDense
from keras_dyhead.layers.pyramid_layer import check_maps
from keras_dyhead.layers.start import SECOND_SLOPE, STARTS
from keras_dyhead.ops.arguments import check_choice, whole_number


@keras.saving.register_keras_serializable(package="keras_dyhead")
class TaskAwareAttention(CompositeLayer):
    """Dynamic ReLU: per image and channel, the maximum of two learned linear functions.

    `out = max(a1 * x + b1, a2 * x + b2)`. The coefficients of each channel come from the global
    mean of the map through two dense layers: with `s = hard_sigmoid(theta(mean))` in [0, 1],
    `a1 = 2 (s - 0.5) + 1`, `a2 = 2 (s - 0.5)` and `b = s - 0.5`. The layer starts close to
    `max(x, 0.9 x)` or, as released, close to a plain ReLU.

    Args:
        reduction: Factor by which the first dense layer reduces the channels. Defaults to 4.
        start: Initialization, `"identity"` (default) or `"released"`; see `DyHeadNeck`.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(B, H, W, C)`.

    Returns:
        Tensor of the same shape as `inputs`.

    Example:

    >>> TaskAwareAttention()(keras.random.normal((2, 8, 8, 32))).shape
    (2, 8, 8, 32)

    Source: paper, section 3.2, equation 5; `DYReLU` in the released code, which has no
    normalization between the dense layers.
    """

    def __init__(self, reduction: int = 4, start: str = "identity", **kwargs):
        super().__init__(**kwargs)
        self.reduction = whole_number(reduction, "reduction")
        check_choice("start", start, STARTS)
        self.start = start

    def build(self, input_shape):
        check_maps([input_shape])
        channels = input_shape[-1]
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})

        def dense(units, activation, name):
            return FullPrecisionDense(
                units,
                activation=activation,
                kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
                dtype=self.compute_dtype,
                name=name,
            )

        self.squeeze = dense(max(channels // self.reduction, 1), "relu", "squeeze")
        self.excite = dense(4 * channels, "hard_sigmoid", "excite")
        if self.start == "identity":
            # Of a1, b1, a2 and b2; a2 = 2 (hard_sigmoid(bias) - 0.5) = bias / 3.
            biases = np.repeat([0.0, 0.0, 3 * SECOND_SLOPE, 0.0], channels)
            self.excite.bias_initializer = keras.initializers.Constant(biases)
        self.squeeze.build((None, channels))
        self.excite.build((None, self.squeeze.units))
        self.built = True

    def coefficients(self, means):
        """Turns the means of maps, `(..., C)`, into a1, b1, a2 and b2 of the same shape."""
        s = self.excite(self.squeeze(means)) - 0.5
        slope1, bias1, slope2, bias2 = ops.split(s, 4, axis=-1)
        return 2 * slope1 + 1, bias1, 2 * slope2, bias2

    def call(self, inputs):
        inputs = ops.cast(inputs, self.compute_dtype)
        a1, b1, a2, b2 = (
            ops.cast(coefficient, self.compute_dtype)[:, None, None]
            for coefficient in self.coefficients(global_mean(inputs))
        )
        return ops.cast(ops.maximum(inputs * a1 + b1, inputs * a2 + b2), inputs.dtype)

    def rectify(self, maps: WeightedMeans) -> list:
        """Applies the dynamic ReLU to the maps of all levels, whose pixels are not computed yet."""
        return maps.dynamic_relu(*self.coefficients(maps.mean))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "reduction": self.reduction, "start": self.start}
