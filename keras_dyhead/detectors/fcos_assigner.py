"""The rule by which a point learns the smallest object around it."""

import dataclasses
import math

import keras
from keras import ops

from keras_dyhead.detectors.assigners import NEGATIVE
from keras_dyhead.detectors.settings import Settings
from keras_dyhead.ops.boxes import box_area, encode_distances


@keras.saving.register_keras_serializable(package="keras_dyhead")
@dataclasses.dataclass(frozen=True)
class FCOSAssigner(Settings):
    """Gives each point the smallest of the objects around it that are of its level's size.

    An object is of a level's size where its farthest side is at least half `max_distance` and at
    most `max_distance` away from the point. There is no lower limit on the finest level and no
    upper one on the coarsest. Of objects of equal area the first is taken.

    Args:
        max_distance: float. In strides of the level. Defaults to 8.0: up to 64 px on P3, 64 to
            128 px on P4, and so on.
        center_radius: float or `None`. An object is learnt only by points that lie within so many
            strides of its centre, along both axes ("centre sampling"). `None` is anywhere inside
            the object. Defaults to 1.5.

    Example:
    ```python
    points = keras.ops.array([[4.0, 4, 8], [12, 4, 8], [20, 4, 8]])  # x, y, stride
    boxes = keras.ops.array([[[0.0, 0, 24, 8], [0, 0, 8, 8]]])
    FCOSAssigner()(points, boxes, labels=keras.ops.array([[2, 0]]))  # [[1, 0, 0]]
    ```

    Source: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, without
    centre sampling; "FCOS: A Simple and Strong Anchor-Free Object Detector", TPAMI 2020, with it.
    """

    max_distance: float = 8.0
    center_radius: float | None = 1.5

    def __post_init__(self):
        if self.max_distance <= 0 or not (self.center_radius is None or self.center_radius > 0):
            raise ValueError(
                f"`max_distance` and `center_radius` must be positive. Received: {self}"
            )

    def __call__(self, points, boxes, labels, level_counts=None):
        """Assigns points to objects, image by image.

        Args:
            points: `(A, 3)` float32 x, y and stride.
            boxes: `(B, N, 4)` float32 xyxy boxes of the objects, N >= 1.
            labels: `(B, N)` int classes; -1 marks padding.
            level_counts: Number of points in each level; makes no difference here.

        Returns:
            `(B, A)` int32: index of the point's object, -1 for background.
        """
        points = ops.convert_to_tensor(points, "float32")
        points, stride = points[:, :2], points[:, 2]
        boxes = ops.cast(boxes, "float32")[:, :, None]
        farthest = ops.max(encode_distances(boxes, points), axis=-1)  # (B, N, A)
        limit = self.max_distance * stride
        smallest = ops.where(stride > ops.min(stride), limit / 2, 0.0)
        largest = ops.where(stride < ops.max(stride), limit, math.inf)
        fits = (farthest >= smallest) & (farthest <= largest)
        central = boxes if self.center_radius is None else self._middles(boxes, stride)
        inside = ops.min(encode_distances(central, points), axis=-1) > 0
        candidates = fits & inside & (labels >= 0)[..., None]
        area = ops.where(candidates, box_area(boxes), math.inf)
        assigned = ops.cast(ops.argmin(area, axis=1), "int32")
        return ops.where(ops.any(candidates, axis=1), assigned, NEGATIVE)

    def _middles(self, boxes, stride):
        """Returns the parts of boxes that points of each stride may lie in, `(B, N, A, 4)`."""
        centres = (boxes[..., :2] + boxes[..., 2:]) / 2
        reach = (self.center_radius * stride)[:, None]
        corners = [
            ops.maximum(centres - reach, boxes[..., :2]),
            ops.minimum(centres + reach, boxes[..., 2:]),
        ]
        return ops.concatenate(corners, axis=-1)
