"""The two heads of a two-stage detector, and the layer that holds both."""

import math

import keras
from keras import ops

from keras_dyhead.detectors.conv_tower import apply_tower, conv_tower, flat_outputs, head_conv
from keras_dyhead.detectors.locations import stack_sizes
from keras_dyhead.layers.frozen import CompositeLayer
from keras_dyhead.layers.task_attention import TaskAwareAttention
from keras_dyhead.ops.arguments import check_choice, whole_number

COARSEST_POOLED = 5  # level up to which regions are pooled


class RPNHead(CompositeLayer):
    """Predicts for every anchor whether it contains an object of any class, and a refined box.

    A 3x3 convolution that keeps the number of channels precedes the predictions. They are float32
    under every policy, and flat over level, row, column and anchor: `"objectness_logits"` `(B, A)`
    and `"anchor_deltas"` `(B, A, 4)`. `"level_sizes"` is as in `PredictionHead`.

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
        channels = next(iter(input_shape.values()))[-1]
        self.tower = conv_tower("shared", 1, channels, False, self.dtype_policy)
        for prediction in (self.objectness_logits, self.anchor_deltas):
            prediction.build((None, None, None, channels))
        self.built = True

    def call(self, pyramid):
        levels = [apply_tower(self.tower, x) for x in pyramid.values()]
        logits = flat_outputs(map(self.objectness_logits, levels), 1)
        return {
            "objectness_logits": ops.squeeze(logits, axis=-1),
            "anchor_deltas": flat_outputs(map(self.anchor_deltas, levels), 4),
            "level_sizes": stack_sizes([ops.shape(x)[1:3] for x in levels]),
        }


class BoxHead(CompositeLayer):
    """Predicts the class of every region `(B, R, height, width, C)`, and a box for each class.

    `hidden` is the type of the `head_layers` layers before the predictions: `"dense"`, fully
    connected with ReLU, or `"task_attention"`, a `TaskAwareAttention` of each region. Predictions
    are those of `FasterRCNN.classify`, float32 under every policy.

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, section 4.2;
    with task-aware attention, Dynamic Head, figure 2(c).
    """

    def __init__(
        self,
        num_classes: int,
        head_layers: int = 2,
        units: int = 1024,
        hidden: str = "dense",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choice("hidden", hidden, ("dense", "task_attention"))
        self.num_classes = num_classes
        self.units = units
        self.hidden = hidden
        self.hidden_layers = [self._hidden_layer(i) for i in range(1, head_layers + 1)]
        self.class_logits = self._dense(num_classes + 1, 0.01, "class_logits")
        self.box_deltas = self._dense(4 * num_classes, 0.001, "box_deltas")

    def _hidden_layer(self, number):
        if self.hidden == "dense":
            return keras.layers.Dense(
                self.units, "relu", name=f"fc{number}", dtype=self.dtype_policy
            )
        return TaskAwareAttention(name=f"task_attention{number}", dtype=self.dtype_policy)

    def _dense(self, units, stddev, name):
        return keras.layers.Dense(
            units,
            kernel_initializer=keras.initializers.RandomNormal(stddev=stddev),
            name=name,
            dtype=self.dtype_policy,
        )

    def build(self, input_shape):
        height, width, channels = input_shape[-3:]
        shape = (None, height, width, channels)
        features = height * width * channels
        for layer in self.hidden_layers:
            layer.build((None, features) if self.hidden == "dense" else shape)
            features = self.units if self.hidden == "dense" else features
        for prediction in (self.class_logits, self.box_deltas):
            prediction.build((None, features))
        self.built = True

    def call(self, regions):
        count = ops.shape(regions)[1]
        x = ops.reshape(regions, (-1, *regions.shape[2:]))
        if self.hidden == "dense":
            x = _flatten(x)
        x = _flatten(apply_tower(self.hidden_layers, x))
        logits = ops.reshape(self.class_logits(x), (-1, count, self.num_classes + 1))
        deltas = ops.reshape(self.box_deltas(x), (-1, count, self.num_classes, 4))
        return {
            "class_logits": ops.cast(logits, "float32"),
            "box_deltas": ops.cast(deltas, "float32"),
        }


@keras.saving.register_keras_serializable(package="keras_dyhead")
class TwoStageHead(CompositeLayer):
    """Predicts for anchors, and returns the maps to pool regions from.

    The detector calls the second stage, `box_head`, because the choice of regions depends on the
    objects in training and on the image sizes in detection. Arguments are those of `RPNHead` and
    `BoxHead`, and `region_size`, the side of a pooled region. Returns the dict of `RPNHead` with
    the maps of the pyramid up to P5.
    """

    def __init__(
        self,
        num_classes: int,
        anchors_per_cell: int = 3,
        region_size: int = 7,
        head_layers: int = 2,
        units: int = 1024,
        hidden: str = "dense",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_classes = whole_number(num_classes, "num_classes")
        self.anchors_per_cell = anchors_per_cell
        self.region_size = region_size
        self.head_layers = head_layers
        self.units = units
        self.hidden = hidden
        self.rpn = RPNHead(anchors_per_cell, dtype=self.dtype_policy, name="rpn")
        self.box_head = BoxHead(
            num_classes, head_layers, units, hidden, dtype=self.dtype_policy, name="box_head"
        )

    def build(self, input_shape):
        self.rpn.build(input_shape)
        channels = next(iter(input_shape.values()))[-1]
        self.box_head.build((None, None, self.region_size, self.region_size, channels))
        self.built = True

    def call(self, pyramid):
        return self.rpn(pyramid) | self.pooled_levels(pyramid)

    def pooled_levels(self, maps) -> dict:
        """Picks the maps to pool regions from out of a dict, fine to coarse."""
        levels = sorted(int(name[1:]) for name in maps if name[:1] == "P" and name[1:].isdecimal())
        return {f"P{n}": maps[f"P{n}"] for n in levels if n <= COARSEST_POOLED}

    def get_config(self):
        return super().get_config() | {
            "num_classes": self.num_classes,
            "anchors_per_cell": self.anchors_per_cell,
            "region_size": self.region_size,
            "head_layers": self.head_layers,
            "units": self.units,
            "hidden": self.hidden,
        }


def _flatten(x):
    return ops.reshape(x, (-1, math.prod(x.shape[1:])))
