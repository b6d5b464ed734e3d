"""ATSS with DyHead."""

import keras

from keras_dyhead.detectors.assigners import ATSSAssigner
from keras_dyhead.detectors.decoding import DetectionDecoder
from keras_dyhead.detectors.dense_detector import AnchorDetector
from keras_dyhead.detectors.locations import AnchorGenerator
from keras_dyhead.detectors.losses import centerness_of, giou_loss
from keras_dyhead.detectors.prediction_head import PredictionHead
from keras_dyhead.layers.feature_pyramid import FeaturePyramid


@keras.saving.register_keras_serializable(package="keras_dyhead")
class ATSS(AnchorDetector):
    """Dense detector with one anchor per location and adaptive assignment, the paper's main model.

    It predicts classes, boxes and centerness: how central a location is in its object. Confidence
    is the product of class probability and centerness. The two reference implementations differ:

    | | microsoft/DynamicHead | OpenMMLab |
    |---|---|---|
    | `head_kernel_size` | 1 | 3 (ResNet-50), 1 (ResNet-50 caffe, Swin-L) |
    | `anchors.offset` | 0.5 | 0.0 (ResNet-50), 0.5 (ResNet-50 caffe, Swin-L) |
    | `decoder.rank_by` | `"confidence"` | `"class"` |
    | `decoder.clip` | `"after_nms"` | `"before_nms"` |
    | `loss_normalizer` | `"batch"` | `"image"` |
    | `pyramid.relu_before_extra_convs` | `True` | `False` |
    | `neck.use_bias` | `True` | `False` |

    Args:
        backbone: As in `Detector`.
        num_classes: int. Number of classes K; labels run from 0 to K - 1.
        neck: As in `Detector`: a `DyHeadNeck`, or `None` for the baseline.
        pyramid: The `FeaturePyramid`. Defaults to P3 to P7 with the neck's channels.
        head_layers: int. Number of 3x3 convolutions with GroupNorm before the predictions, in one
            branch for classes and one for boxes and centerness. Defaults to 0, as published with
            DyHead; ATSS without DyHead has 4.
        head_kernel_size: int. Kernel size of the predictions. Defaults to 3.
        anchors: `AnchorGenerator`. Defaults to a square of 8 strides at the center of each cell.
        assigner: Defaults to `ATSSAssigner()`.
        box_weights: Four floats that scale the box deltas. Defaults to `(10, 10, 5, 5)`.
        box_loss_weight: float. Weight of the box loss. Defaults to 2.0.
        loss_normalizer: `"image"`, `"batch"` or `"running"`, as in `DenseDetector`. The box loss
            is instead divided by the sum of the centerness targets (at least 1 for `"image"`).
            Defaults to `"image"`.
        decoder: Defaults to `DetectionDecoder(iou_threshold=0.6)`.
        dtype: As in `Detector`, and for the head. Defaults to the global policy.
        **kwargs: `image_shape`, `preprocessor`, `class_names`, `name` and `trainable`, as in
            `Detector`.

    Example:
    ```python
    model = ATSS(ResNetBackbone(18), num_classes=80, neck=DyHeadNeck(1, channels=64))
    model.compile()
    images = np.zeros((1, 128, 128, 3), "float32")
    targets = {"boxes": np.array([[[8.0, 8, 70, 60]]]), "labels": np.array([[3]])}
    model.fit(images, targets)
    detections = model.predict(images)  # {"boxes": (1, 100, 4), "labels": (1, 100), ...}
    ```

    Source: Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection via
    Adaptive Training Sample Selection", CVPR 2020; with DyHead, the configurations
    `dyhead_*_atss_*` of microsoft/DynamicHead and `atss_*_dyhead_*` of OpenMMLab. The ATSS paper
    takes the square root of the product as confidence; neither implementation does.
    """

    loss_names = ("class_loss", "box_loss", "centerness_loss")

    def __init__(
        self,
        backbone,
        num_classes: int,
        neck: keras.layers.Layer | str | None = "dyhead",
        pyramid: FeaturePyramid | None = None,
        head_layers: int = 0,
        head_kernel_size: int = 3,
        anchors: AnchorGenerator | None = None,
        assigner: ATSSAssigner | None = None,
        box_weights=(10.0, 10.0, 5.0, 5.0),
        box_loss_weight: float = 2.0,
        loss_normalizer: str = "image",
        decoder: DetectionDecoder | None = None,
        dtype=None,
        **kwargs,
    ):
        anchors = anchors or AnchorGenerator(8.0, octaves=1, ratios=(1.0,), offset=0.5)
        head = PredictionHead(
            num_classes,
            anchors.per_cell,
            head_layers,
            head_kernel_size,
            use_centerness=True,
            dtype=dtype,
            name="head",
        )
        super().__init__(
            backbone,
            head,
            anchors,
            assigner or ATSSAssigner(),
            box_weights,
            loss_normalizer,
            neck=neck,
            pyramid=pyramid,
            decoder=decoder or DetectionDecoder(iou_threshold=0.6),
            dtype=dtype,
            **kwargs,
        )
        self.head_layers = head_layers
        self.head_kernel_size = head_kernel_size
        self.box_loss_weight = box_loss_weight

    def get_config(self):
        return super().get_config() | {
            "num_classes": self.num_classes,
            "head_layers": self.head_layers,
            "head_kernel_size": self.head_kernel_size,
            "box_loss_weight": self.box_loss_weight,
        }

    def compute_losses(self, raw, boxes, labels, training=False):
        """Returns a focal loss for classes, a GIoU loss for boxes, cross-entropy for centerness.

        The box loss of an anchor is weighted by its centerness target.
        """
        anchors, assigned, targets = self.match(raw, boxes, labels)
        centerness = centerness_of((anchors[:, :2] + anchors[:, 2:]) / 2, targets)
        box_loss = self.box_loss_weight * giou_loss(targets, self.boxes_at(anchors, raw))
        return self.losses_with_centerness(raw, labels, assigned, centerness, box_loss, training)
