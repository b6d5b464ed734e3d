"""The base classes of dense detectors: targets of locations, losses and decoding."""

import keras
from keras import ops
from keras.saving import serialize_keras_object

from keras_dyhead.detectors.assigners import IGNORED, Assigner
from keras_dyhead.detectors.detector import Detector
from keras_dyhead.detectors.locations import AnchorGenerator
from keras_dyhead.detectors.losses import sigmoid_focal_loss
from keras_dyhead.detectors.prediction_head import PredictionHead
from keras_dyhead.detectors.replicas import sum_over_replicas
from keras_dyhead.ops.arguments import check_choice
from keras_dyhead.ops.boxes import decode_boxes, take_per_image

RUNNING_MOMENTUM, RUNNING_START = 0.9, 100.0  # as in detectron2


class DenseDetector(Detector):
    """A detector that predicts for locations, with a focal loss for the classes.

    Locations are anchors or points, `locations_per_cell` in each cell of the pyramid. A subclass
    implements `locations`, their positions, and `boxes_at`, the boxes predicted for them.

    Args:
        backbone: As in `Detector`.
        head: Layer that turns the pyramid into raw outputs; it has `num_classes`.
        assigner: The `Assigner` of objects to locations.
        loss_normalizer: Which number of positive locations to divide losses by. `"image"`: that of
            the batch, where every image counts as at least one (OpenMMLab's detectors with
            anchors). `"batch"`: that of the batch, at least one (Microsoft's ATSS, FCOS).
            `"running"`: its running mean over training steps, which starts at 100 and has momentum
            0.9 (detectron2, Microsoft's RetinaNet). Defaults to `"image"`.
        **kwargs: As in `Detector`.
    """

    def __init__(
        self,
        backbone,
        head: keras.layers.Layer,
        assigner: Assigner,
        loss_normalizer: str = "image",
        **kwargs,
    ):
        check_choice("loss_normalizer", loss_normalizer, ("image", "batch", "running"))
        super().__init__(backbone, head, **kwargs)
        self.num_classes = head.num_classes
        self.assigner = assigner
        self.loss_normalizer = loss_normalizer
        if loss_normalizer == "running":
            self.running_positives = self.add_weight(
                shape=(),
                initializer=keras.initializers.Constant(RUNNING_START),
                dtype="float32",
                trainable=False,
                aggregation="only_first_replica",
                name="running_positives",
            )

    def get_config(self):
        return super().get_config() | {
            "assigner": serialize_keras_object(self.assigner),
            "loss_normalizer": self.loss_normalizer,
        }

    def locations(self, level_sizes):
        """Returns the locations `(A, ...)` for the (height, width) of each level."""
        raise NotImplementedError

    def boxes_at(self, locations, raw):
        """Returns the boxes `(B, A, 4)` of raw outputs in xyxy pixels, unclipped."""
        raise NotImplementedError

    def match(self, raw, boxes, labels):
        """Returns the target of every location, for arguments of `Detector.compute_losses`.

        Returns:
            Tuple of the locations `(A, ...)`, the indices of their objects `(B, A)`, and the boxes
            of these objects `(B, A, 4)`. Without an object, the index is negative and the box is
            the image's first.
        """
        level_sizes = self.level_sizes(raw)
        locations = self.locations(level_sizes)
        assigned = self.assigner(locations, boxes, labels, self.level_counts(level_sizes))
        return locations, assigned, take_per_image(boxes, ops.maximum(assigned, 0))

    def sum_class_losses(self, raw, labels, assigned):
        """Sums the focal losses of all locations that are not ignored."""
        classes = take_per_image(labels, ops.maximum(assigned, 0))
        classes = ops.where(assigned >= 0, classes, -1)
        targets = ops.one_hot(classes, self.num_classes)  # -1 is all zeros: background
        loss = sigmoid_focal_loss(targets, raw["class_logits"])
        return ops.sum(ops.where((assigned != IGNORED)[..., None], loss, 0.0))

    def num_positives(self, positive, training=False):
        """Returns what to divide losses by, given `positive` `(B, A)`; see `loss_normalizer`."""
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

    def losses_with_centerness(self, raw, labels, assigned, centerness, box_loss, training=False):
        """Returns the losses of a detector that predicts centerness, see `compute_losses`.

        `assigned` (see `match`), `centerness` (the targets) and `box_loss` are `(B, A)`. The box
        loss is averaged over locations, weighted by their centerness.
        """
        positive = assigned >= 0
        normalizer = self.num_positives(positive, training)
        centerness = ops.where(positive, centerness, 0.0)
        cross_entropy = ops.binary_crossentropy(
            centerness, raw["centerness_logits"], from_logits=True
        )
        smallest = 1.0 if self.loss_normalizer == "image" else keras.config.epsilon()
        total_centerness = ops.maximum(sum_over_replicas(ops.sum(centerness)), smallest)
        return {
            "class_loss": self.sum_class_losses(raw, labels, assigned) / normalizer,
            "box_loss": ops.sum(centerness * box_loss) / total_centerness,
            "centerness_loss": ops.sum(ops.where(positive, cross_entropy, 0.0)) / normalizer,
        }

    def decode(self, raw, image_sizes=None):
        level_sizes = self.level_sizes(raw)
        return self.decoder(
            raw["class_logits"],
            self.boxes_at(self.locations(level_sizes), raw),
            self.level_counts(level_sizes),
            image_sizes,
            raw.get("centerness_logits"),
        )


class AnchorDetector(DenseDetector):
    """A dense detector that predicts box deltas from anchors, scaled by four `box_weights`."""

    def __init__(
        self,
        backbone,
        head: PredictionHead,
        anchors: AnchorGenerator,
        assigner: Assigner,
        box_weights,
        loss_normalizer: str = "image",
        **kwargs,
    ):
        super().__init__(backbone, head, assigner, loss_normalizer, **kwargs)
        self.anchors = anchors
        self.box_weights = tuple(box_weights)
        self.locations_per_cell = anchors.per_cell

    def get_config(self):
        return super().get_config() | {
            "anchors": serialize_keras_object(self.anchors),
            "box_weights": self.box_weights,
        }

    def locations(self, level_sizes):
        """Returns the anchors `(A, 4)` for the (height, width) of each level."""
        return self.anchors(level_sizes, self.pyramid.min_level)

    def boxes_at(self, locations, raw):
        """Applies the deltas of raw outputs to the anchors."""
        return decode_boxes(raw["box_deltas"], locations, self.box_weights)

    def match(self, raw, boxes, labels):
        """Returns the target of every anchor; without an object, its box is the anchor itself."""
        anchors, assigned, targets = super().match(raw, boxes, labels)
        return anchors, assigned, ops.where((assigned >= 0)[..., None], targets, anchors)
