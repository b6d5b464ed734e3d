"""RetinaNet with DyHead."""

import keras
from keras import ops

from keras_dyhead.detectors.assigners import MaxIoUAssigner
from keras_dyhead.detectors.dense_detector import AnchorDetector
from keras_dyhead.detectors.locations import AnchorGenerator
from keras_dyhead.detectors.losses import smooth_l1_loss
from keras_dyhead.detectors.prediction_head import PredictionHead
from keras_dyhead.layers.feature_pyramid import FeaturePyramid
from keras_dyhead.ops.boxes import encode_boxes


@keras.saving.register_keras_serializable(package="keras_dyhead")
class RetinaNet(AnchorDetector):
    """Dense detector that predicts classes and box deltas for several anchors per location.

    Args:
        backbone: As in `Detector`.
        num_classes: int. Number of classes K; labels run from 0 to K - 1.
        neck: As in `Detector`.
        pyramid: The `FeaturePyramid`. Defaults to P3 to P7 with the neck's channels.
        head_layers: int. Number of 3x3 convolutions between DyHead and each prediction. Defaults
            to 4, as published.
        anchors: `AnchorGenerator`. Defaults to `AnchorGenerator()`: 3 sizes and 3 ratios.
        assigner: Defaults to `MaxIoUAssigner()`.
        box_weights: Four floats that scale the box deltas. Defaults to ones.
        smooth_l1_beta: float. 0 is the L1 loss. Defaults to 0.0.
        loss_normalizer: `"image"`, `"batch"` or `"running"`, as in `DenseDetector`. Defaults to
            `"image"`.
        dtype: As in `Detector`, and for the head. Defaults to the global policy.
        **kwargs: `image_shape`, `decoder`, `preprocessor`, `class_names`, `name` and `trainable`,
            as in `Detector`.

    Example:
    ```python
    model = RetinaNet(ResNetBackbone(18), num_classes=80, neck=DyHeadNeck(1, channels=64))
    model.compile()  # then `fit` and `predict` as with `ATSS`
    ```

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017; with DyHead, the
    configuration `dyhead_r50_retina_fpn_1x` of microsoft/DynamicHead.
    """

    def __init__(
        self,
        backbone,
        num_classes: int,
        neck: keras.layers.Layer | str | None = "dyhead",
        pyramid: FeaturePyramid | None = None,
        head_layers: int = 4,
        anchors: AnchorGenerator | None = None,
        assigner: MaxIoUAssigner | None = None,
        box_weights=(1.0, 1.0, 1.0, 1.0),
        smooth_l1_beta: float = 0.0,
        loss_normalizer: str = "image",
        dtype=None,
        **kwargs,
    ):
        anchors = anchors or AnchorGenerator()
        head = PredictionHead(num_classes, anchors.per_cell, head_layers, dtype=dtype, name="head")
        super().__init__(
            backbone,
            head,
            anchors,
            assigner or MaxIoUAssigner(),
            box_weights,
            loss_normalizer,
            neck=neck,
            pyramid=pyramid,
            dtype=dtype,
            **kwargs,
        )
        self.head_layers = head_layers
        self.smooth_l1_beta = smooth_l1_beta

    def get_config(self):
        return super().get_config() | {
            "num_classes": self.num_classes,
            "head_layers": self.head_layers,
            "smooth_l1_beta": self.smooth_l1_beta,
        }

    def compute_losses(self, raw, boxes, labels, training=False):
        """Returns a focal loss for classes and a smooth L1 loss for box deltas."""
        anchors, assigned, targets = self.match(raw, boxes, labels)
        positive = assigned >= 0
        normalizer = self.num_positives(positive, training)
        # An anchor without an object is its own target, so that the deltas are finite.
        deltas = encode_boxes(targets, anchors, self.box_weights)
        box_loss = smooth_l1_loss(deltas, raw["box_deltas"], self.smooth_l1_beta)
        return {
            "class_loss": self.sum_class_losses(raw, labels, assigned) / normalizer,
            "box_loss": ops.sum(ops.where(positive[..., None], box_loss, 0.0)) / normalizer,
        }
