"""Scale-aware attention (π_L): how much each level counts."""

import keras
from keras import ops

from keras_dyhead.layers.affine_maps import WeighedSum, global_mean
from keras_dyhead.layers.full_precision import FullPrecisionDense
from keras_dyhead.layers.pyramid_layer import PyramidLayer, check_maps, listed


@keras.saving.register_keras_serializable(package="keras_dyhead")
class ScaleAwareAttention(PyramidLayer):
    """Weighs maps of several levels by one learned number each, and averages them.

    The number is `activation(relu(w · mean(map) + b))`, with one `w` and `b` for all maps. With the
    default activation, `relu6(x + 3) / 6`, it lies in [0.5, 1].

    `b` starts at 1, the number at 2/3. In the released code `b` starts at 0: the ReLU is zero for
    about half of the maps from the beginning, in short trainings often soon for all, and a ReLU
    that is zero for all maps does not learn.

    Args:
        activation: Gate function. The default `"hard_sigmoid"` is the released code's
            `relu6(x + 3) / 6`; the paper's `max(0, min(1, (x + 1) / 2))` would be
            `lambda x: keras.ops.clip((x + 1) / 2, 0, 1)`, which ends at 1, where `b` starts: give
            `gate.bias` a smaller value before training with it.
        **kwargs: Of `keras.layers.Layer`.

    Call arguments:
        inputs: List or dict of maps `(B, H, W, C)` of one size.

    Returns:
        Tensor of shape `(B, H, W, C)`: the mean of the weighted maps.

    Example:

    >>> branches = [keras.random.normal((2, 8, 8, 32)) for _ in range(3)]
    >>> ScaleAwareAttention()(branches).shape
    (2, 8, 8, 32)

    Source: paper, section 3.2, equation 3; `AttnConv` in the released code, which has the ReLU.
    """

    def __init__(self, activation="hard_sigmoid", **kwargs):
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)
        self.gate = FullPrecisionDense(
            1,
            activation="relu",
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            bias_initializer="ones",
            dtype=self.compute_dtype,
            name="gate",
        )

    def build(self, input_shape):
        levels = self.check_levels(input_shape)
        self.gate.build((None, None, listed(levels)[0][-1]))
        self.built = True

    def check_levels(self, shapes):
        levels = check_maps(shapes)
        known = [{shape[axis] for shape in levels.values()} - {None} for axis in (1, 2, 3)]
        if max(map(len, known)) > 1 or self.built and known[2] != {self.gate.kernel.shape[0]}:
            raise ValueError(
                "The maps must have one size, and the number of channels the layer was built for. "
                f"Received: shapes {shapes}"
            )
        return levels

    def gates(self, means):
        """Turns means of maps, `(..., C)`, into the number each is weighed with, `(..., 1)`."""
        return self.activation(self.gate(means))

    def factors(self, inputs) -> list:
        """Returns the number that a call multiplies each map by: one tensor `(B,)` per map."""
        gates = self.gates(ops.stack([global_mean(x) for x in inputs], axis=1))
        return ops.unstack(gates[..., 0], len(inputs), axis=1)

    def call(self, inputs):
        inputs = [ops.cast(x, self.compute_dtype) for x in listed(inputs)]
        pairs = zip(inputs, self.factors(inputs), strict=True)
        weighed = [x * ops.cast(w, x.dtype)[:, None, None, None] for x, w in pairs]
        return sum(weighed) / len(inputs)

    def weigh(self, levels) -> list[WeighedSum]:
        """Returns the mean of the weighted maps of every level, given as dicts of `AffineMap`."""
        means = [x.mean for branches in levels for x in branches.values()]
        gates = iter(ops.unstack(self.gates(ops.stack(means, axis=1)), len(means), axis=1))
        return [
            WeighedSum(list(branches.values()), [1 / len(branches) * next(gates) for _ in branches])
            for branches in levels
        ]

    def compute_output_shape(self, input_shape):
        return tuple(listed(input_shape)[0])

    def get_config(self):
        return {
            **super().get_config(),
            "activation": keras.activations.serialize(self.activation),
        }
