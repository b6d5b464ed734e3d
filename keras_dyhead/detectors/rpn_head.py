"""The region proposal network's head."""

import keras
from keras import ops

from keras_dyhead.detectors.conv_tower import apply_tower, conv_tower, head_conv
from keras_dyhead.ops.rows import MapRows


@keras.saving.register_keras_serializable(package="keras_dyhead")
class RPNHead(keras.layers.Layer):
    """Predicts for every anchor whether it holds an object of any class, and a better box.

    Before the predictions comes a 3x3 convolution with as many channels as the maps.

    Args:
        anchors_per_cell: int. Defaults to 3.
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`.

    Call arguments:
        pyramid: Dict `{"P2": (B, H, W, C), ...}` of maps in ascending level order.

    Returns:
        Dict, flat over level, row, column and anchor: `"objectness_logits"` `(B, A)` and
        `"anchor_deltas"` `(B, A, 4)`, float32 under every policy; and `"level_sizes"` `(L, 2)`
        int32, height and width of each level.

    Example:
    ```python
    head = RPNHead()
    raw = head({"P2": keras.ops.ones((1, 4, 4, 8)), "P3": keras.ops.ones((1, 2, 2, 8))})
    raw["objectness_logits"].shape, raw["anchor_deltas"].shape  # (1, 60), (1, 60, 4)
    ```

    Source: Ren et al., "Faster R-CNN", NeurIPS 2015, section 3.1.
    """

    def __init__(self, anchors_per_cell: int = 3, **kwargs):
        super().__init__(**kwargs)
        self.anchors_per_cell = anchors_per_cell
        self.objectness_logits, self.anchor_deltas = (
            head_conv(width * anchors_per_cell, 1, name, self.dtype_policy)
            for width, name in ((1, "objectness_logits"), (4, "anchor_deltas"))
        )

    def build(self, input_shape):
        """Creates the convolutions."""
        channels = next(iter(input_shape.values()))[-1]
        self.tower = conv_tower("shared", 1, channels, False, self.dtype_policy)
        for prediction in (self.objectness_logits, self.anchor_deltas):
            prediction.build((None, None, None, channels))
        self.built = True

    def call(self, pyramid):
        """Predicts on every level and joins the levels."""
        levels = [apply_tower(self.tower, x) for x in pyramid.values()]
        logits = MapRows([self.objectness_logits(x) for x in levels])
        deltas = MapRows([self.anchor_deltas(x) for x in levels])
        num_anchors = ops.shape(logits.values)[1] * self.anchors_per_cell
        return {
            "objectness_logits": ops.cast(ops.reshape(logits.values, (-1, num_anchors)), "float32"),
            "anchor_deltas": ops.cast(ops.reshape(deltas.values, (-1, num_anchors, 4)), "float32"),
            "level_sizes": ops.cast(ops.stack([ops.stack(size) for size in logits.sizes]), "int32"),
        }

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {"anchors_per_cell": self.anchors_per_cell}
