"""Scale-aware attention (π_L): how much each level contributes."""

import keras
from keras import ops

from keras_dyhead.layers.affine_maps import AffineMaps, WeightedMeans, global_mean
from keras_dyhead.layers.full_precision import FullPrecisionDense
from keras_dyhead.layers.pyramid_layer import PyramidLayer, check_maps, listed
from keras_dyhead.ops.rows import split_rows


@keras.saving.register_keras_serializable(package="keras_dyhead")
class ScaleAwareAttention(PyramidLayer):
    """Multiplies the maps of several levels by one learned weight each, and averages them.

    The weight is `activation(relu(w · mean(map) + b))`, with the same `w` and `b` for all maps.
    With the default activation, `relu6(x + 3) / 6`, it lies in [0.5, 1].

    `b` starts at 1, so the weight starts near 2/3. In the released code, `b` starts at 0. The ReLU
    is then zero for about half of the maps at first, and in short training runs often soon for all.
    A ReLU that is zero for all maps does not learn.

    Args:
        activation: Gate function. The default `"hard_sigmoid"` is the released code's
            `relu6(x + 3) / 6`. The paper's `max(0, min(1, (x + 1) / 2))` would be
            `lambda x: keras.ops.clip((x + 1) / 2, 0, 1)`, which saturates at 1, where `b` starts:
            assign a smaller value to `gate.bias` before training with it.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: List or dict of maps `(B, H, W, C)` of the same size.

    Returns:
        Tensor of shape `(B, H, W, C)`: the mean of the weighted maps.

    Example:

    >>> branches = [keras.random.normal((2, 8, 8, 32)) for _ in range(3)]
    >>> ScaleAwareAttention()(branches).shape
    (2, 8, 8, 32)

    Source: paper, section 3.2, equation 3; `AttnConv` in the released code, which adds the ReLU.
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
                "All maps must have the same size, and the same number of channels in every call. "
                f"Received: shapes {shapes}"
            )
        return levels

    def gates(self, means):
        """Turns the means of maps, `(..., C)`, into their weights, `(..., 1)`."""
        return self.activation(self.gate(means))

    def factors(self, inputs) -> list:
        """Returns the weight of each map: one tensor `(B,)` per map."""
        gates = self.gates(ops.stack([global_mean(x) for x in inputs], axis=1))
        return ops.unstack(gates[..., 0], len(inputs), axis=1)

    def call(self, inputs):
        inputs = [ops.cast(x, self.compute_dtype) for x in listed(inputs)]
        pairs = zip(inputs, self.factors(inputs), strict=True)
        weighted = [x * ops.cast(w, x.dtype)[:, None, None, None] for x, w in pairs]
        return sum(weighted) / len(inputs)

    def weigh(self, branches: list[AffineMaps]) -> WeightedMeans:
        """Returns the mean of the weighted maps of each level."""
        gates = self.gates(ops.concatenate([x.mean for x in branches], axis=1))
        return WeightedMeans(branches, split_rows(gates, [len(x.levels) for x in branches]))

    def compute_output_shape(self, input_shape):
        return tuple(listed(input_shape)[0])

    def get_config(self):
        return {
            **super().get_config(),
            "activation": keras.activations.serialize(self.activation),
        }
