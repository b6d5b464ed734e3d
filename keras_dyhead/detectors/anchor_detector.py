"""What detectors with anchors share: which anchor learns what, and how anchors become boxes."""

import keras
from keras import ops

from keras_dyhead.detectors.anchors import AnchorGenerator
from keras_dyhead.detectors.assigners import IGNORED, ATSSAssigner, MaxIoUAssigner
from keras_dyhead.detectors.detector import Detector
from keras_dyhead.detectors.losses import sigmoid_focal_loss, sum_over_replicas
from keras_dyhead.detectors.prediction_head import PredictionHead
from keras_dyhead.ops.boxes import decode_boxes, take_per_image

LOSS_NORMALIZERS = ("image", "batch", "running")
RUNNING_MOMENTUM, RUNNING_START = 0.9, 100.0  # of detectron2


class AnchorDetector(Detector):
    """A detector whose raw outputs belong to anchors, with a focal loss on the classes.

    Args:
        backbone: As in `Detector`.
        head: The `PredictionHead`.
        anchors: The `AnchorGenerator`.
        assigner: Which anchor learns which object.
        box_weights: Four floats that scale the box deltas.
        loss_normalizer: The number of positive anchors that losses are divided by: of the batch,
            where every `"image"` counts as at least one (OpenMMLab), of the `"batch"`, at least
            one (Microsoft's ATSS), or its `"running"` mean over the training steps, with momentum
            0.9 from 100 on (detectron2, Microsoft's RetinaNet). Defaults to `"image"`.
        **kwargs: Of `Detector`.
    """

    def __init__(
        self,
        backbone,
        head: PredictionHead,
        anchors: AnchorGenerator,
        assigner: MaxIoUAssigner | ATSSAssigner,
        box_weights,
        loss_normalizer: str = "image",
        **kwargs,
    ):
        if loss_normalizer not in LOSS_NORMALIZERS:
            raise ValueError(
                f"`loss_normalizer` must be one of {LOSS_NORMALIZERS}. "
                f"Received: {loss_normalizer!r}"
            )
        super().__init__(backbone, head, **kwargs)
        self.num_classes = head.num_classes
        self.anchors = anchors
        self.assigner = assigner
        self.box_weights = tuple(box_weights)
        self.loss_normalizer = loss_normalizer
        self.locations_per_cell = anchors.per_cell
        if loss_normalizer == "running":
            self.running_positives = self.add_weight(
                shape=(),
                initializer=keras.initializers.Constant(RUNNING_START),
                dtype="float32",
                trainable=False,
                aggregation="only_first_replica",
                name="running_positives",
            )

    def match(self, raw, boxes, labels):
        """Says what every anchor has to learn.

        Args:
            raw: Dict of raw outputs.
            boxes: `(B, N, 4)` float32, N >= 1.
            labels: `(B, N)` int32, -1 where padded.

        Returns:
            Tuple of the anchors `(A, 4)`, the index of each one's object `(B, A)` (negative where
            it has none), and its box `(B, A, 4)`: the object's, or the anchor itself.
        """
        level_sizes = self.level_sizes(raw)
        anchors = self.anchors(level_sizes, self.min_level)
        assigned = self.assigner(anchors, boxes, labels, self.level_counts(level_sizes))
        targets = take_per_image(boxes, ops.maximum(assigned, 0))
        return anchors, assigned, ops.where((assigned >= 0)[..., None], targets, anchors)

    def sum_class_losses(self, raw, labels, assigned):
        """Sums the focal losses of all anchors but the ignored ones."""
        classes = take_per_image(labels, ops.maximum(assigned, 0))
        classes = ops.where(assigned >= 0, classes, -1)
        targets = ops.one_hot(classes, self.num_classes)  # -1 is all zeros: background
        loss = sigmoid_focal_loss(targets, raw["class_logits"])
        return ops.sum(ops.where((assigned != IGNORED)[..., None], loss, 0.0))

    def num_positives(self, positive, training=False):
        """Returns the number that losses are divided by, see `loss_normalizer`.

        Args:
            positive: `(B, A)` bool, which anchors have an object.
            training: bool. Whether to update the running mean.
        """
        counts = ops.sum(ops.cast(positive, "float32"), axis=1)
        if self.loss_normalizer == "image":
            return sum_over_replicas(ops.sum(ops.maximum(counts, 1.0)))
        count = ops.maximum(sum_over_replicas(ops.sum(counts)), 1.0)
        if self.loss_normalizer == "batch":
            return count
        mean = ops.convert_to_tensor(self.running_positives)
        if training:
            mean = RUNNING_MOMENTUM * mean + (1 - RUNNING_MOMENTUM) * count
            self.running_positives.assign(mean)
        return mean

    def level_counts(self, level_sizes):
        """Returns the number of anchors in each level."""
        return [height * width * self.anchors.per_cell for height, width in level_sizes]

    def decode(self, raw, image_sizes=None):
        """Turns raw outputs into detections; see `Detector.decode`."""
        level_sizes = self.level_sizes(raw, image_sizes)
        anchors = self.anchors(level_sizes, self.min_level)
        return self.decoder(
            raw["class_logits"],
            decode_boxes(raw["box_deltas"], anchors, self.box_weights),
            self.level_counts(level_sizes),
            image_sizes,
            raw.get("centerness_logits"),
        )
