"""RepPoints with DyHead."""

import keras
from keras import ops

from keras_dyhead.detectors.assigners import POINT_SCALE, MaxIoUAssigner, nearest_points
from keras_dyhead.detectors.dense_detector import DenseDetector
from keras_dyhead.detectors.locations import grid_points
from keras_dyhead.detectors.losses import smooth_l1_loss
from keras_dyhead.detectors.reppoints_head import RepPointsHead
from keras_dyhead.layers.feature_pyramid import FeaturePyramid
from keras_dyhead.ops.boxes import take_per_image

INITIAL_LOSS_WEIGHT = 0.5


@keras.saving.register_keras_serializable(package="keras_dyhead")
class RepPoints(DenseDetector):
    """Dense detector that represents each object by nine points, in two stages.

    Every location predicts initial points, samples the map there, and refines the points. Boxes
    come from the mean and standard deviation of the points (`RepPointsHead`). Initial points learn
    the object with the nearest center; classes and refined points learn the object that the
    initial box overlaps most.

    Args:
        backbone: As in `Detector`.
        num_classes: int. Number of classes K; labels run from 0 to K - 1.
        neck: As in `Detector`.
        pyramid: The `FeaturePyramid`. Defaults to P3 to P7 with the neck's channels.
        head_layers: int. Number of 3x3 convolutions before the predictions, in one branch for
            classes and one for points. Defaults to 0; RepPoints as published has 3.
        head_group_norm: bool. Whether to normalize after these convolutions. Defaults to `True`.
        initial_spread: float. Strides between initial points before training, on a 3x3 grid. With
            3.0, boxes are about as large as the objects of their level, which speeds up training
            from scratch. Defaults to 0.0, as published: all points start at the location.
        assigner: For classes and refined points, from initial boxes. Defaults to
            `MaxIoUAssigner(reassign=True)`.
        smooth_l1_beta: float. Error, in units of four strides, below which box losses are
            quadratic. Defaults to 0.11.
        loss_normalizer: `"image"` or `"batch"`, as in `DenseDetector`, with the positive locations
            of each loss. Defaults to `"image"`.
        dtype: As in `Detector`, and for the head. Defaults to the global policy.
        **kwargs: `image_shape`, `decoder`, `preprocessor`, `class_names`, `name` and `trainable`,
            as in `Detector`.

    Example:
    ```python
    model = RepPoints(ResNetBackbone(18), num_classes=80, neck=DyHeadNeck(1, channels=64))
    model.compile()  # then `fit` and `predict` as with `ATSS`
    ```

    Source: Yang et al., "RepPoints: Point Set Representation for Object Detection", ICCV 2019,
    moment variant; assignment and losses as in `reppoints-moment_r50_fpn_1x_coco` of OpenMMLab.
    """

    loss_names = ("class_loss", "initial_box_loss", "box_loss")

    def __init__(
        self,
        backbone,
        num_classes: int,
        neck: keras.layers.Layer | str | None = "dyhead",
        pyramid: FeaturePyramid | None = None,
        head_layers: int = 0,
        head_group_norm: bool = True,
        initial_spread: float = 0.0,
        assigner: MaxIoUAssigner | None = None,
        smooth_l1_beta: float = 0.11,
        loss_normalizer: str = "image",
        dtype=None,
        **kwargs,
    ):
        if loss_normalizer == "running":
            raise ValueError(
                '`loss_normalizer` must be "image" or "batch", because both stages of RepPoints '
                f"have their own positives. Received: {loss_normalizer!r}"
            )
        head = RepPointsHead(
            num_classes, head_layers, head_group_norm, initial_spread, dtype=dtype, name="head"
        )
        super().__init__(
            backbone,
            head,
            assigner or MaxIoUAssigner(reassign=True),
            loss_normalizer,
            neck=neck,
            pyramid=pyramid,
            dtype=dtype,
            **kwargs,
        )
        self.head_layers = head_layers
        self.head_group_norm = head_group_norm
        self.initial_spread = initial_spread
        self.smooth_l1_beta = smooth_l1_beta

    def get_config(self):
        return super().get_config() | {
            "num_classes": self.num_classes,
            "head_layers": self.head_layers,
            "head_group_norm": self.head_group_norm,
            "initial_spread": self.initial_spread,
            "smooth_l1_beta": self.smooth_l1_beta,
        }

    def locations(self, level_sizes):
        """Returns the points `(A, 3)` (x, y and stride) for the (height, width) of each level."""
        return grid_points(level_sizes, self.pyramid.min_level, offset=0.0)

    def boxes_at(self, locations, raw):
        """Returns the boxes of the refined points."""
        return _in_pixels(raw["refined_boxes"], locations)

    def match_initial(self, raw, boxes, labels):
        """Returns the target of the initial points of every location; see `match`."""
        points = self.locations(self.level_sizes(raw))
        assigned = nearest_points(points, boxes, labels)
        return points, assigned, take_per_image(boxes, ops.maximum(assigned, 0))

    def match(self, raw, boxes, labels):
        """Returns the target of classes and refined points; see `DenseDetector.match`."""
        points = self.locations(self.level_sizes(raw))
        initial_boxes = ops.stop_gradient(_in_pixels(raw["initial_boxes"], points))
        assigned = self.assigner(initial_boxes, boxes, labels)
        return points, assigned, take_per_image(boxes, ops.maximum(assigned, 0))

    def compute_losses(self, raw, boxes, labels, training=False):
        """Returns a focal loss for classes and smooth L1 losses for the boxes of both stages."""
        initial_box_loss = self._box_loss(
            raw["initial_boxes"], *self.match_initial(raw, boxes, labels)
        )
        points, assigned, targets = self.match(raw, boxes, labels)
        class_loss = self.sum_class_losses(raw, labels, assigned)
        return {
            "class_loss": class_loss / self.num_positives(assigned >= 0),
            "initial_box_loss": INITIAL_LOSS_WEIGHT * initial_box_loss,
            "box_loss": self._box_loss(raw["refined_boxes"], points, assigned, targets),
        }

    def _box_loss(self, predicted, points, assigned, targets):
        positive, unit = assigned >= 0, POINT_SCALE * points[:, 2:]
        loss = smooth_l1_loss(
            targets / unit, _in_pixels(predicted, points) / unit, self.smooth_l1_beta
        )
        return ops.sum(ops.where(positive[..., None], loss, 0.0)) / self.num_positives(positive)


def _in_pixels(boxes, points):
    """Converts boxes relative to points, in strides, to pixels."""
    return boxes * points[:, 2:] + ops.tile(points[:, :2], (1, 2))
