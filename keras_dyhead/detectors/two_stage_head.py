"""Both heads of a two-stage detector as the one layer after DyHead."""

import keras

from keras_dyhead.detectors.box_head import BoxHead
from keras_dyhead.detectors.rpn_head import RPNHead


@keras.saving.register_keras_serializable(package="keras_dyhead")
class TwoStageHead(keras.layers.Layer):
    """Predicts for anchors, and hands on the maps that regions will be read from.

    Which regions these are depends on more than the images: in training on the objects, in
    detection on the sizes of the images. So the second stage, `box_head`, is called by the detector
    where that is known.

    Args:
        num_classes: int. Number of classes K.
        anchors_per_cell: int. Defaults to 3.
        max_pooled_level: int. Coarsest level that regions are read from. Defaults to 5.
        region_size: int. Height and width of a region that was read. Defaults to 7.
        head_layers: int. As in `BoxHead`, like the next two. Defaults to 2.
        units: int. Defaults to 1024.
        hidden: Defaults to `"dense"`.
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`.

    Call arguments:
        pyramid: Dict `{"P2": (B, H, W, C), ...}` of maps in ascending level order.

    Returns:
        What `RPNHead` returns, and the maps of `pyramid` up to `max_pooled_level`, by name.

    Example:
    ```python
    head = TwoStageHead(num_classes=5, max_pooled_level=2)
    raw = head({"P2": keras.ops.ones((1, 4, 4, 8)), "P3": keras.ops.ones((1, 2, 2, 8))})
    sorted(raw)  # ['P2', 'anchor_deltas', 'level_sizes', 'objectness_logits']
    ```
    """

    def __init__(
        self,
        num_classes: int,
        anchors_per_cell: int = 3,
        max_pooled_level: int = 5,
        region_size: int = 7,
        head_layers: int = 2,
        units: int = 1024,
        hidden: str = "dense",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.anchors_per_cell = anchors_per_cell
        self.max_pooled_level = max_pooled_level
        self.region_size = region_size
        self.head_layers = head_layers
        self.units = units
        self.hidden = hidden
        self.rpn = RPNHead(anchors_per_cell, dtype=self.dtype_policy, name="rpn")
        self.box_head = BoxHead(
            num_classes, head_layers, units, hidden, dtype=self.dtype_policy, name="box_head"
        )

    @property
    def class_logits(self):
        """The layer that predicts classes."""
        return self.box_head.class_logits

    def build(self, input_shape):
        """Creates the layers of both stages."""
        self.rpn.build(input_shape)
        channels = next(iter(input_shape.values()))[-1]
        self.box_head.build((None, None, self.region_size, self.region_size, channels))
        self.built = True

    def call(self, pyramid):
        """Runs the first stage."""
        return self.rpn(pyramid) | self.pooled_levels(pyramid)

    def pooled_levels(self, maps) -> dict:
        """Picks the maps that regions are read from, fine to coarse, of a dict that has them."""
        levels = sorted(int(name[1:]) for name in maps if name[:1] == "P" and name[1:].isdecimal())
        return {f"P{n}": maps[f"P{n}"] for n in levels if n <= self.max_pooled_level}

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "num_classes": self.num_classes,
            "anchors_per_cell": self.anchors_per_cell,
            "max_pooled_level": self.max_pooled_level,
            "region_size": self.region_size,
            "head_layers": self.head_layers,
            "units": self.units,
            "hidden": self.hidden,
        }
