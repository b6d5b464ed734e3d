"""What detectors with anchors share."""

from keras import ops
from keras.saving import serialize_keras_object

from keras_dyhead.detectors.anchors import AnchorGenerator
from keras_dyhead.detectors.assigners import ATSSAssigner, MaxIoUAssigner
from keras_dyhead.detectors.dense_detector import DenseDetector
from keras_dyhead.detectors.prediction_head import PredictionHead
from keras_dyhead.ops.boxes import decode_boxes


class AnchorDetector(DenseDetector):
    """A dense detector whose locations are anchors, from which it predicts deltas.

    Args:
        backbone: As in `Detector`.
        head: The `PredictionHead`.
        anchors: The `AnchorGenerator`.
        assigner: Which anchor learns which object.
        box_weights: Four floats that scale the box deltas.
        loss_normalizer: As in `DenseDetector`. Defaults to `"image"`.
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
        super().__init__(backbone, head, assigner, loss_normalizer, **kwargs)
        self.anchors = anchors
        self.box_weights = tuple(box_weights)
        self.locations_per_cell = anchors.per_cell

    def get_config(self):
        """Returns the arguments of the constructor, serialized."""
        return super().get_config() | {
            "anchors": serialize_keras_object(self.anchors),
            "box_weights": self.box_weights,
        }

    def locations(self, level_sizes):
        """Returns the anchors `(A, 4)` of levels of these (height, width)."""
        return self.anchors(level_sizes, self.pyramid.min_level)

    def boxes_at(self, locations, raw):
        """Applies the deltas of raw outputs to the anchors."""
        return decode_boxes(raw["box_deltas"], locations, self.box_weights)

    def match(self, raw, boxes, labels):
        """Says what every anchor has to learn; the box of those without an object is their own."""
        anchors, assigned, targets = super().match(raw, boxes, labels)
        return anchors, assigned, ops.where((assigned >= 0)[..., None], targets, anchors)
