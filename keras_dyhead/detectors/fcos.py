"""FCOS with DyHead."""

import keras

from keras_dyhead.detectors.assigners import FCOSAssigner
from keras_dyhead.detectors.dense_detector import DenseDetector
from keras_dyhead.detectors.locations import grid_points
from keras_dyhead.detectors.losses import centerness_of, giou_loss, iou_loss
from keras_dyhead.detectors.prediction_head import PredictionHead
from keras_dyhead.layers.feature_pyramid import FeaturePyramid
from keras_dyhead.ops.arguments import check_choice
from keras_dyhead.ops.boxes import decode_distances

BOX_LOSSES = {"iou": iou_loss, "giou": giou_loss}


@keras.saving.register_keras_serializable(package="keras_dyhead")
class FCOS(DenseDetector):
    """Dense detector without anchors: each point predicts the distances to the sides of its box.

    It predicts classes, distances and centerness: how central a point is in its object. Confidence
    is the product of class probability and centerness. Defaults follow the later paper (TPAMI
    2020). The first (ICCV 2019) and OpenMMLab's `fcos_r50-caffe_fpn_gn-head_1x_coco` differ:

    | | default | first paper, OpenMMLab |
    |---|---|---|
    | `head_layers` | 0, directly after DyHead | 4 |
    | `assigner.center_radius` | 1.5 | `None` |
    | `box_loss` | `"giou"` | `"iou"` |
    | `distance_unit` | `"stride"` | `"pixel"` |
    | `centerness_branch` | `"box"` | `"class"` |
    | `pyramid.relu_before_extra_convs` | `False` | `True` |

    Args:
        backbone: As in `Detector`.
        num_classes: int. Number of classes K; labels run from 0 to K - 1.
        neck: As in `Detector`.
        pyramid: The `FeaturePyramid`. Defaults to P3 to P7 with the neck's channels.
        head_layers: int. Number of 3x3 convolutions with GroupNorm before the predictions, in one
            branch for classes and one for boxes. Defaults to 0; FCOS without DyHead has 4.
        head_kernel_size: int. Kernel size of the predictions. Defaults to 3.
        centerness_branch: The branch that predicts centerness, `"box"` or `"class"`. No difference
            if `head_layers` is 0. Defaults to `"box"`.
        distance_unit: Unit of predicted distances: `"pixel"`, or the level's `"stride"`, which is
            learned faster. Raw outputs are in pixels in both cases. Defaults to `"stride"`.
        assigner: Defaults to `FCOSAssigner()`.
        box_loss: `"giou"` (see `giou_loss`) or `"iou"` (see `iou_loss`). Defaults to `"giou"`.
        box_loss_weight: float. Weight of the box loss. Defaults to 1.0.
        loss_normalizer: As in `ATSS`. Defaults to `"batch"`.
        dtype: As in `Detector`, and for the head. Defaults to the global policy.
        **kwargs: `image_shape`, `decoder`, `preprocessor`, `class_names`, `name` and `trainable`,
            as in `Detector`.

    Example:
    ```python
    model = FCOS(ResNetBackbone(18), num_classes=80, neck=DyHeadNeck(1, channels=64))
    model.compile()  # then `fit` and `predict` as with `ATSS`
    ```

    Source: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, and
    "FCOS: A Simple and Strong Anchor-Free Object Detector", TPAMI 2020. The latter takes the
    square root of the product as confidence. Its code uses ReLU in place of the exponential if
    distances are in strides.
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
        centerness_branch: str = "box",
        distance_unit: str = "stride",
        assigner: FCOSAssigner | None = None,
        box_loss: str = "giou",
        box_loss_weight: float = 1.0,
        loss_normalizer: str = "batch",
        dtype=None,
        **kwargs,
    ):
        check_choice("box_loss", box_loss, list(BOX_LOSSES))
        head = PredictionHead(
            num_classes,
            head_layers=head_layers,
            kernel_size=head_kernel_size,
            use_centerness=True,
            box_output="box_distances",
            distance_unit=distance_unit,
            centerness_branch=centerness_branch,
            dtype=dtype,
            name="head",
        )
        super().__init__(
            backbone,
            head,
            assigner or FCOSAssigner(),
            loss_normalizer,
            neck=neck,
            pyramid=pyramid,
            dtype=dtype,
            **kwargs,
        )
        self.head_layers = head_layers
        self.head_kernel_size = head_kernel_size
        self.centerness_branch = centerness_branch
        self.distance_unit = distance_unit
        self.box_loss = box_loss
        self.box_loss_weight = box_loss_weight

    def get_config(self):
        return super().get_config() | {
            "num_classes": self.num_classes,
            "head_layers": self.head_layers,
            "head_kernel_size": self.head_kernel_size,
            "centerness_branch": self.centerness_branch,
            "distance_unit": self.distance_unit,
            "box_loss": self.box_loss,
            "box_loss_weight": self.box_loss_weight,
        }

    def locations(self, level_sizes):
        """Returns the points `(A, 3)` (x, y and stride) for the (height, width) of each level."""
        return grid_points(level_sizes, self.pyramid.min_level, offset=0.5)

    def boxes_at(self, locations, raw):
        """Turns the distances of raw outputs into boxes around the points."""
        return decode_distances(raw["box_distances"], locations[:, :2])

    def compute_losses(self, raw, boxes, labels, training=False):
        """Returns a focal loss for classes, an IoU loss for boxes, cross-entropy for centerness.

        The box loss of a point is weighted by its centerness target.
        """
        points, assigned, targets = self.match(raw, boxes, labels)
        centerness = centerness_of(points[:, :2], targets)
        box_loss = BOX_LOSSES[self.box_loss](targets, self.boxes_at(points, raw))
        box_loss = self.box_loss_weight * box_loss
        return self.losses_with_centerness(raw, labels, assigned, centerness, box_loss, training)
