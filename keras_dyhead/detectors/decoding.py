"""From the raw outputs of a head to detections."""

import dataclasses
import numbers

import keras
from keras import ops

from keras_dyhead.detectors.locations import smaller
from keras_dyhead.detectors.settings import Settings
from keras_dyhead.ops.arguments import check, check_choice, whole_number
from keras_dyhead.ops.boxes import clip_boxes, is_empty, take_per_image
from keras_dyhead.ops.nms import non_max_suppression


@keras.saving.register_keras_serializable(package="keras_dyhead")
@dataclasses.dataclass(frozen=True)
class DetectionDecoder(Settings):
    """Selects candidates on each level, then suppresses duplicates within each class.

    The confidence of a candidate is its class probability, times its centerness if the detector
    predicts centerness.

    Args:
        score_threshold: float. A (box, class) pair is a candidate if its class probability,
            without centerness, exceeds this. Defaults to 0.05.
        iou_threshold: float. Of two detections of the same class with a larger IoU, only the
            better one is kept. Defaults to 0.5.
        max_candidates: int. Candidates kept per level. Defaults to 1000.
        max_detections: int. Maximum detections per image. Defaults to 100.
        clip: When to clip boxes to the image and drop empty ones: `"before_nms"` (OpenMMLab) or
            `"after_nms"` (detectron2, microsoft/DynamicHead), where boxes outside the image count
            toward `max_detections`. Defaults to `"before_nms"`.
        rank_by: How to rank the candidates of a level: by `"class"` probability (OpenMMLab) or by
            `"confidence"`, with centerness (microsoft/DynamicHead). Defaults to `"class"`.

    Example:
    ```python
    logits = keras.ops.array([[[4.0, -4.0], [3.0, -4.0], [-4.0, 2.0]]])  # (B=1, A=3, K=2)
    boxes = keras.ops.array([[[0.0, 0, 9, 9], [0, 0, 9, 8], [0, 0, 9, 9]]])
    decode = DetectionDecoder(max_detections=5)
    decode(logits, boxes, level_counts=[3])["labels"]  # [[0, 1, -1, -1, -1]]
    ```
    """

    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    max_candidates: int = 1000
    max_detections: int = 100
    clip: str = "before_nms"
    rank_by: str = "class"

    def __post_init__(self):
        check_choice("clip", self.clip, ("before_nms", "after_nms"))
        check_choice("rank_by", self.rank_by, ("class", "confidence"))
        for name in ("score_threshold", "iou_threshold"):
            value = getattr(self, name)
            check(name, value, isinstance(value, numbers.Real) and 0 <= value <= 1, "from 0 to 1")
        for name in ("max_candidates", "max_detections"):
            whole_number(getattr(self, name), name)

    def __call__(self, class_logits, boxes, level_counts, image_sizes=None, centerness_logits=None):
        """Decodes a batch.

        Args:
            class_logits: `(B, A, K)` float32.
            boxes: `(B, A, 4)` float32 xyxy boxes.
            level_counts: Number of anchors in each level, ints or scalar tensors; their sum is A.
            image_sizes: `(B, 2)` (height, width) of the images without padding, to clip boxes to.
                `None` leaves them unclipped.
            centerness_logits: `(B, A)` float32, or `None`.

        Returns:
            The dict of `Detector.decode`, with N = `max_detections`, padded with box 0, label -1
            and confidence 0.
        """
        num_classes = class_logits.shape[-1]
        centerness = None if centerness_logits is None else ops.sigmoid(centerness_logits)
        if centerness is not None and self.rank_by == "confidence":
            confidence = self._probabilities(class_logits) * centerness[..., None]
            scores, pairs = self._best_pairs(confidence, level_counts)
        else:
            logits, pairs = self._best_pairs(class_logits, level_counts)
            scores = self._probabilities(logits)
            if centerness is not None:
                scores = scores * take_per_image(centerness, pairs // num_classes)
        boxes = take_per_image(boxes, pairs // num_classes)
        return self.suppress(boxes, scores, pairs % num_classes, image_sizes)

    def from_probabilities(self, probabilities, boxes, image_sizes=None):
        """Decodes a batch of a two-stage detector, which predicts a box for every class.

        Args:
            probabilities: `(B, R, K)` float32 class probabilities without the background.
            boxes: `(B, R, K, 4)` float32 xyxy boxes.
            image_sizes: As in `__call__`.

        Returns:
            The dict of `__call__`, with all regions as one level.
        """
        regions, num_classes = ops.shape(probabilities)[1:]
        probabilities = ops.where(probabilities > self.score_threshold, probabilities, 0.0)
        scores, pairs = self._best_pairs(probabilities, [regions])
        boxes = take_per_image(ops.reshape(boxes, (-1, regions * num_classes, 4)), pairs)
        return self.suppress(boxes, scores, pairs % num_classes, image_sizes)

    def suppress(self, boxes, scores, labels, image_sizes, groups=None):
        """Turns candidates `(B, C)` with scores above 0 into detections.

        Candidates suppress only those of the same group. `groups` `(B, C)` default to the labels.
        """
        groups = labels if groups is None else groups
        if image_sizes is not None and self.clip == "before_nms":
            boxes = clip_boxes(boxes, image_sizes)
            scores = ops.where(is_empty(boxes), 0.0, scores)
        picked = non_max_suppression(boxes, scores, groups, self.iou_threshold, self.max_detections)
        found, picked = picked >= 0, ops.maximum(picked, 0)
        boxes, labels, scores = (take_per_image(x, picked) for x in (boxes, labels, scores))
        scores = ops.where(found, scores, 0.0)
        if image_sizes is not None and self.clip == "after_nms":
            boxes = clip_boxes(boxes, image_sizes)
            scores, kept = ops.top_k(ops.where(is_empty(boxes), 0.0, scores), self.max_detections)
            boxes, labels = take_per_image(boxes, kept), take_per_image(labels, kept)
        found = scores > 0
        return {
            "boxes": ops.where(found[..., None], boxes, 0.0),
            "labels": ops.where(found, labels, -1),
            "confidence": scores,
            "num_detections": ops.sum(ops.cast(found, "int32"), axis=1),
        }

    def _probabilities(self, logits):
        """Returns the sigmoids, or 0 where they do not exceed the threshold."""
        probabilities = ops.sigmoid(logits)
        return ops.where(probabilities > self.score_threshold, probabilities, 0.0)

    def _best_pairs(self, ranked, level_counts):
        """Returns values and flat (anchor, class) indices of the best pairs of every level."""
        num_classes = ranked.shape[-1]
        values, pairs, start = [], [], 0
        for count in level_counts:
            level = ops.reshape(ranked[:, start : start + count], (-1, count * num_classes))
            best, index = ops.top_k(level, smaller(self.max_candidates, count * num_classes))
            values.append(best)
            pairs.append(ops.cast(index, "int32") + start * num_classes)
            start = start + count
        return ops.concatenate(values, axis=1), ops.concatenate(pairs, axis=1)
