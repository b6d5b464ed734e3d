"""Rules that decide which anchor learns which object."""

import dataclasses

import keras
from keras import ops

from keras_dyhead.detectors.settings import Settings
from keras_dyhead.ops.boxes import box_iou

NEGATIVE = -1
IGNORED = -2


@keras.saving.register_keras_serializable(package="keras_dyhead")
@dataclasses.dataclass(frozen=True)
class MaxIoUAssigner(Settings):
    """Gives each anchor the object it overlaps most, if it overlaps enough.

    An anchor is positive from `positive_iou` on, negative (background) below `negative_iou`, and
    ignored between. Besides, every object takes the anchors that overlap it best, however
    little, so that no object goes without ("low-quality matches").

    Args:
        positive_iou: float. Defaults to 0.5.
        negative_iou: float. Defaults to 0.4.
        reassign: bool. What a low-quality match does to an anchor that overlaps another object
            even more: `True` gives it to the object that has no better anchor (OpenMMLab; of
            several the last), `False` leaves it with the object it overlaps most
            (detectron2, microsoft/DynamicHead). Defaults to `False`.

    Example:
    ```python
    anchors = keras.ops.array([[0.0, 0, 8, 8], [8, 0, 16, 8], [0, 0, 8, 5]])
    boxes = keras.ops.array([[[0.0, 0, 8, 8]]])
    MaxIoUAssigner()(anchors, boxes, labels=keras.ops.array([[2]]))  # [[0, -1, 0]]
    ```
    """

    positive_iou: float = 0.5
    negative_iou: float = 0.4
    reassign: bool = False

    def __post_init__(self):
        if not 0 <= self.negative_iou <= self.positive_iou <= 1:
            raise ValueError(
                f"Thresholds must satisfy 0 <= negative_iou <= positive_iou <= 1. Received: {self}"
            )

    def __call__(self, anchors, boxes, labels):
        """Assigns anchors to objects, image by image.

        Args:
            anchors: `(A, 4)` float32 xyxy anchors.
            boxes: `(B, N, 4)` float32 xyxy boxes of the objects, N >= 1.
            labels: `(B, N)` int classes; -1 marks padding.

        Returns:
            `(B, A)` int32: index of the anchor's object, -1 for background, -2 for ignored.
        """
        real = labels >= 0
        iou = ops.where(real[..., None], box_iou(boxes, anchors[None]), -1.0)  # (B, N, A)
        best_iou = ops.max(iou, axis=1)
        assigned = ops.cast(ops.argmax(iou, axis=1), "int32")

        best_of_object = ops.max(iou, axis=2, keepdims=True)
        claims = (iou == best_of_object) & (best_of_object > 0)
        claimed = ops.any(claims, axis=1)
        if self.reassign:
            index = ops.arange(1, ops.shape(boxes)[1] + 1, dtype="int32")[:, None]
            last = ops.max(ops.where(claims, index, 0), axis=1) - 1
            assigned = ops.where(claimed, last, assigned)

        unmatched = ops.where(best_iou < self.negative_iou, NEGATIVE, IGNORED)
        positive = claimed | (best_iou >= self.positive_iou)
        return ops.where(positive, assigned, unmatched)
