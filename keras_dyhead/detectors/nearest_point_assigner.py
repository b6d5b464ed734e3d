"""The rule by which an object goes to the points nearest to its centre."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_dyhead.detectors.assigners import award
from keras_dyhead.detectors.pyramid_layout import smaller
from keras_dyhead.detectors.settings import Settings


@keras.saving.register_keras_serializable(package="keras_dyhead")
@dataclasses.dataclass(frozen=True)
class NearestPointAssigner(Settings):
    """Gives each object the points nearest to its centre, on the one level that fits its size.

    That is the coarsest level whose stride, times `scale`, is no larger than the object (the root
    of its area), or the finest where none is. Distances count in widths and heights of the object.
    A point that several objects want goes to the one it is nearer to, the first of equals.

    Args:
        scale: float. Sides of the smallest objects of a level in units of its stride. Defaults to
            4.0.
        top_k: int. Points per object. Defaults to 1.

    Example:
    ```python
    points = PointGenerator(0.0)([(4, 4), (2, 2)], min_level=3)
    boxes = keras.ops.array([[[0.0, 0, 20, 18], [0, 0, 64, 80]]])
    labels = keras.ops.array([[2, 0]])
    assigned = NearestPointAssigner()(points, boxes, labels)  # (1, 20)
    assigned[0, 5], assigned[0, 19]  # 0 at x 8, y 8 of stride 8, 1 at 16, 16 of stride 16
    ```

    Source: Yang et al., "RepPoints: Point Set Representation for Object Detection", ICCV 2019,
    section 3.3, with the level of OpenMMLab's mmdetection.
    """

    scale: float = 4.0
    top_k: int = 1

    def __post_init__(self):
        if self.scale <= 0 or self.top_k < 1:
            raise ValueError(f"`scale` must be positive, `top_k` at least 1. Received: {self}")

    def __call__(self, points, boxes, labels, level_counts=None):
        """Assigns points to objects, image by image.

        Args:
            points: `(A, 3)` float32 x, y and stride, as `PointGenerator` places them.
            boxes: `(B, N, 4)` float32 xyxy boxes of the objects, N >= 1.
            labels: `(B, N)` int classes; -1 marks padding.
            level_counts: Number of points in each level; makes no difference here.

        Returns:
            `(B, A)` int32: index of the point's object, -1 for background.
        """
        positions, strides = points[:, :2], points[:, 2]
        sizes = ops.maximum(boxes[..., 2:] - boxes[..., :2], 1e-6)
        sides = ops.sqrt(ops.prod(sizes, axis=-1, keepdims=True))
        fitting = ops.where(self.scale * strides <= sides, strides, ops.min(strides))  # (B, N, A)
        on_level = strides == ops.max(fitting, axis=-1, keepdims=True)
        centres = (boxes[..., :2] + boxes[..., 2:]) / 2
        offsets = (positions - centres[:, :, None]) / sizes[:, :, None]
        distances = ops.where(on_level, ops.norm(offsets, axis=-1), np.inf)
        merits, candidates = ops.top_k(-distances, smaller(self.top_k, ops.shape(points)[0]))
        claims = (merits > -np.inf) & (labels >= 0)[..., None]
        return award(claims, merits, ops.cast(candidates, "int32"), ops.shape(points)[0])
