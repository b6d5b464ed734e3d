"""The head that classifies regions."""

import keras
from keras import ops

from keras_dyhead.layers.task_attention import TaskAwareAttention

HIDDEN = ("dense", "task_attention")


@keras.saving.register_keras_serializable(package="keras_dyhead")
class BoxHead(keras.layers.Layer):
    """Predicts the class of every region, and a better box for each class.

    Args:
        num_classes: int. Number of classes K.
        head_layers: int. Layers between the regions and the predictions. Defaults to 2.
        units: int. Units of the dense ones. Defaults to 1024.
        hidden: What these layers are: `"dense"`, fully connected with ReLU, or `"task_attention"`,
            task-aware attention over the channels of each region (`TaskAwareAttention`), whose
            values then go to the predictions as they are. Defaults to `"dense"`.
        **kwargs: `name`, `dtype` and other arguments of `keras.layers.Layer`.

    Call arguments:
        regions: `(B, R, height, width, C)`.

    Returns:
        Dict, float32 under every policy: `"class_logits"` `(B, R, K + 1)`, the background last, and
        `"box_deltas"` `(B, R, K, 4)`.

    Raises:
        ValueError: If `hidden` is neither of the two.

    Example:
    ```python
    head = BoxHead(num_classes=5, units=32)
    outputs = head(keras.random.normal((1, 10, 7, 7, 16)))
    outputs["class_logits"].shape, outputs["box_deltas"].shape  # (1, 10, 6), (1, 10, 5, 4)
    ```

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
        if hidden not in HIDDEN:
            raise ValueError(f"`hidden` must be one of {HIDDEN}. Received: {hidden!r}")
        self.num_classes = num_classes
        self.head_layers = head_layers
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
        """Creates the layers."""
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
        """Predicts for all regions of the batch."""
        count = ops.shape(regions)[1]
        x = ops.reshape(regions, (-1, *regions.shape[2:]))
        if self.hidden == "dense":
            x = _flatten(x)
        for layer in self.hidden_layers:
            x = layer(x)
        x = _flatten(x)
        logits = ops.reshape(self.class_logits(x), (-1, count, self.num_classes + 1))
        deltas = ops.reshape(self.box_deltas(x), (-1, count, self.num_classes, 4))
        return {
            "class_logits": ops.cast(logits, "float32"),
            "box_deltas": ops.cast(deltas, "float32"),
        }

    def get_config(self):
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "num_classes": self.num_classes,
            "head_layers": self.head_layers,
            "units": self.units,
            "hidden": self.hidden,
        }


def _flatten(x):
    features = 1
    for side in x.shape[1:]:
        features *= side
    return ops.reshape(x, (-1, features))
