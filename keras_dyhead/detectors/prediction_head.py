"""The head that reads classes and boxes off every pyramid level."""

import math

import keras
from keras import ops

PRIOR_PROBABILITY = 0.01


@keras.saving.register_keras_serializable(package="keras_dyhead")
class PredictionHead(keras.layers.Layer):
    """Predicts class logits and box deltas for every anchor, with the same weights on all levels.

    Args:
        num_classes: int. Number of classes K.
        anchors_per_cell: int. Defaults to 1.
        num_convs: int. 3x3 convolutions with ReLU before each of the two predictions.
            Defaults to 0.
        channels: int. Channels of those convolutions. Defaults to 256.
        kernel_size: int. Kernel size of the predictions. Defaults to 3.
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`.

    Call arguments:
        pyramid: Dict of `(B, H, W, C)` maps in ascending level order.

    Returns:
        Dict, float32 under every policy, flat over level, row, column and anchor:
        `"class_logits"` `(B, A, K)`, `"box_deltas"` `(B, A, 4)`; and `"level_sizes"` `(L, 2)`
        int32, height and width of each level, which tell what lies where in A.

    Example:
    ```python
    head = PredictionHead(num_classes=5, anchors_per_cell=2)
    raw = head({"P3": keras.ops.ones((1, 4, 4, 8)), "P4": keras.ops.ones((1, 2, 2, 8))})
    raw["class_logits"].shape, raw["box_deltas"].shape  # (1, 40, 5), (1, 40, 4)
    ```
    """

    def __init__(
        self,
        num_classes: int,
        anchors_per_cell: int = 1,
        num_convs: int = 0,
        channels: int = 256,
        kernel_size: int = 3,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.anchors_per_cell = anchors_per_cell
        self.num_convs = num_convs
        self.channels = channels
        self.kernel_size = kernel_size
        self.class_tower = [self._conv(channels, 3, f"class_conv_{i}") for i in range(num_convs)]
        self.box_tower = [self._conv(channels, 3, f"box_conv_{i}") for i in range(num_convs)]
        for conv in self.class_tower + self.box_tower:
            conv.activation = ops.relu
        self.class_logits = self._conv(num_classes * anchors_per_cell, kernel_size, "class_logits")
        # Every anchor starts as background: its sigmoid is the prior probability.
        self.class_logits.bias_initializer = keras.initializers.Constant(
            -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        )
        self.box_deltas = self._conv(4 * anchors_per_cell, kernel_size, "box_deltas")

    def _conv(self, filters, kernel_size, name):
        return keras.layers.Conv2D(
            filters,
            kernel_size,
            padding="same",
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            name=name,
            dtype=self.dtype_policy,
        )

    def build(self, input_shape):
        """Creates the convolutions."""
        channels = next(iter(input_shape.values()))[-1]
        for tower, prediction in self._branches():
            shape = (None, None, None, channels)
            for conv in tower:
                conv.build(shape)
                shape = (None, None, None, self.channels)
            prediction.build(shape)
        self.built = True

    def call(self, pyramid):
        """Predicts on every level and joins the levels."""
        outputs = {}
        for tower, prediction in self._branches():
            levels = []
            for x in pyramid.values():
                for conv in tower:
                    x = conv(x)
                x = ops.cast(prediction(x), "float32")
                cells = ops.shape(x)[1] * ops.shape(x)[2]
                width = prediction.filters // self.anchors_per_cell
                levels.append(ops.reshape(x, (-1, cells * self.anchors_per_cell, width)))
            outputs[prediction.name] = ops.concatenate(levels, axis=1)
        sizes = [ops.stack(ops.shape(x)[1:3]) for x in pyramid.values()]
        return outputs | {"level_sizes": ops.cast(ops.stack(sizes), "int32")}

    def _branches(self):
        return [(self.class_tower, self.class_logits), (self.box_tower, self.box_deltas)]

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "num_classes": self.num_classes,
            "anchors_per_cell": self.anchors_per_cell,
            "num_convs": self.num_convs,
            "channels": self.channels,
            "kernel_size": self.kernel_size,
        }
