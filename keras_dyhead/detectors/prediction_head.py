"""The head that predicts classes and boxes on every pyramid level."""

import keras
from keras import ops

from keras_dyhead.detectors.conv_tower import (
    apply_tower,
    conv_tower,
    flat_outputs,
    head_conv,
    prior_bias,
)
from keras_dyhead.detectors.locations import stack_sizes
from keras_dyhead.layers.frozen import CompositeLayer
from keras_dyhead.ops.arguments import at_least_float32, check_choice, whole_number

MAX_EXPONENT = 16.0  # exp(16) is nine million pixels: no prediction overflows


@keras.saving.register_keras_serializable(package="keras_dyhead")
class PredictionHead(CompositeLayer):
    """Predicts classes and boxes for every anchor or point, with the same weights on all levels.

    Args:
        num_classes: int. Number of classes K.
        anchors_per_cell: int. Defaults to 1, as for points.
        head_layers: int. Number of 3x3 convolutions with ReLU before the predictions, in one branch
            for classes and one for boxes, with the channels of the input. Defaults to 0.
        kernel_size: int. Kernel size of the predictions. Defaults to 3.
        use_centerness: bool. Whether to predict centerness. If so, as in FCOS and ATSS, each of
            those convolutions has group normalization, in groups of 8 channels (32 groups of 256),
            in place of a bias, and the box outputs of each level are multiplied by a learned scale.
            Defaults to `False`.
        box_output: `"box_deltas"`, or `"box_distances"`, which are exponentials and so positive.
            Defaults to `"box_deltas"`.
        distance_unit: Unit of predicted distances: `"pixel"`, or the level's `"stride"`. Defaults
            to `"pixel"`.
        centerness_branch: The branch that predicts centerness, `"box"` or `"class"`. Defaults to
            `"box"`.
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`.

    Call arguments:
        pyramid: Dict `{"P3": (B, H, W, C), ...}` of maps in ascending level order.

    Returns:
        Dict, float32 under every policy, flat over level, row, column and anchor: `"class_logits"`
        `(B, A, K)`, `"box_deltas"` or `"box_distances"` (pixels) `(B, A, 4)`, and with centerness
        `"centerness_logits"` `(B, A)`; and `"level_sizes"` `(L, 2)` int32, the height and width of
        each level, which give the layout of A.

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
        head_layers: int = 0,
        kernel_size: int = 3,
        use_centerness: bool = False,
        box_output: str = "box_deltas",
        distance_unit: str = "pixel",
        centerness_branch: str = "box",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choice("box_output", box_output, ("box_deltas", "box_distances"))
        check_choice("distance_unit", distance_unit, ("pixel", "stride"))
        check_choice("centerness_branch", centerness_branch, ("box", "class"))
        self.num_classes = whole_number(num_classes, "num_classes")
        self.anchors_per_cell = anchors_per_cell
        self.head_layers = head_layers
        self.kernel_size = kernel_size
        self.use_centerness = use_centerness
        self.box_output = box_output
        self.distance_unit = distance_unit
        self.centerness_branch = centerness_branch
        self.class_logits = self._conv(num_classes * anchors_per_cell, "class_logits")
        self.class_logits.bias_initializer = prior_bias()
        self.boxes = self._conv(4 * anchors_per_cell, box_output)
        self.centerness_logits = (
            self._conv(anchors_per_cell, "centerness_logits") if use_centerness else None
        )

    def _conv(self, filters, name):
        return head_conv(filters, self.kernel_size, name, self.dtype_policy)

    def build(self, input_shape):
        channels = next(iter(input_shape.values()))[-1]
        self.class_tower, self.box_tower = (
            conv_tower(branch, self.head_layers, channels, self.use_centerness, self.dtype_policy)
            for branch in ("class", "box")
        )
        self.class_logits.build((None, None, None, channels))
        self.boxes.build((None, None, None, channels))
        if self.use_centerness:
            self.centerness_logits.build((None, None, None, channels))
            self.level_scales = [
                self.add_weight(
                    shape=(),
                    initializer="ones",
                    dtype=at_least_float32(self.compute_dtype),
                    autocast=False,
                    name=f"box_scale_{level}",
                )
                for level in input_shape
            ]
        self.built = True

    def call(self, pyramid):
        class_maps = [apply_tower(self.class_tower, x) for x in pyramid.values()]
        box_maps = [apply_tower(self.box_tower, x) for x in pyramid.values()]
        boxes = [ops.cast(self.boxes(x), "float32") for x in box_maps]
        outputs = {
            "class_logits": flat_outputs(map(self.class_logits, class_maps), self.num_classes),
            self.box_output: flat_outputs(self._box_outputs(boxes, pyramid), 4),
        }
        if self.use_centerness:
            maps = box_maps if self.centerness_branch == "box" else class_maps
            centerness = flat_outputs(map(self.centerness_logits, maps), 1)
            outputs["centerness_logits"] = ops.squeeze(centerness, axis=-1)
        sizes = [ops.shape(x)[1:3] for x in pyramid.values()]
        return outputs | {"level_sizes": stack_sizes(sizes)}

    def _box_outputs(self, maps, levels):
        if self.use_centerness:
            scales = [ops.cast(scale, "float32") for scale in self.level_scales]
            maps = [x * scale for x, scale in zip(maps, scales, strict=True)]
        if self.box_output == "box_distances":
            maps = [ops.exp(ops.minimum(x, MAX_EXPONENT)) for x in maps]
            if self.distance_unit == "stride":
                maps = [x * 2.0 ** int(level[1:]) for x, level in zip(maps, levels, strict=True)]
        return maps

    def get_config(self):
        return super().get_config() | {
            "num_classes": self.num_classes,
            "anchors_per_cell": self.anchors_per_cell,
            "head_layers": self.head_layers,
            "kernel_size": self.kernel_size,
            "use_centerness": self.use_centerness,
            "box_output": self.box_output,
            "distance_unit": self.distance_unit,
            "centerness_branch": self.centerness_branch,
        }
