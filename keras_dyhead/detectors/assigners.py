"""Rules that assign objects to anchors or points."""

import dataclasses
import functools
import math

import keras
import numpy as np
from keras import ops

from keras_dyhead.detectors.locations import smaller
from keras_dyhead.detectors.settings import Settings
from keras_dyhead.ops.boxes import box_area, box_iou
from keras_dyhead.ops.chunks import num_chunks, scan_chunks

NEGATIVE = -1
IGNORED = -2
CENTER_MARGIN = 0.01  # pixels by which the center of a positive anchor of ATSS lies inside
POINT_SCALE = 4.0  # strides: the size of the smallest objects of a level of RepPoints


class Assigner(Settings):
    """Base class of the rules that assign an object to every anchor or point."""

    def __call__(self, locations, boxes, labels, level_counts=None):
        """Assigns locations to objects, image by image.

        Args:
            locations: `(A, 4)` float32 xyxy anchors, or `(A, 3)` points (x, y and stride), level by
                level.
            boxes: `(B, N, 4)` float32 xyxy boxes of the objects, N >= 1.
            labels: `(B, N)` int classes; -1 marks padding.
            level_counts: Number of locations in each level, ints or scalar tensors; their sum is A.
                Only `ATSSAssigner` needs it.

        Returns:
            `(B, A)` int32: index of the location's object, -1 for background, -2 for ignored.
        """
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="keras_dyhead")
@dataclasses.dataclass(frozen=True)
class MaxIoUAssigner(Assigner):
    """Assigns each anchor the object it overlaps most, if the overlap is large enough.

    An anchor is positive if its IoU is at least `positive_iou`, negative (background) if it is
    below `negative_iou`, and otherwise ignored. In addition, the anchors with the highest IoU for
    each object are positive, however low that IoU is ("low-quality matches").

    Args:
        positive_iou: float. Defaults to 0.5.
        negative_iou: float. Defaults to 0.4.
        reassign: bool. Where the anchor of a low-quality match overlaps another object more:
            `True` assigns it the object of the match, the last of several (OpenMMLab); `False`
            keeps the object it overlaps most (detectron2, microsoft/DynamicHead). Defaults to
            `False`.
        low_quality_iou: float. Minimum IoU of a low-quality match, which always exceeds 0. `None`
            turns these matches off. Defaults to 0.0.

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
    low_quality_iou: float | None = 0.0

    def __post_init__(self):
        if not 0 <= self.negative_iou <= self.positive_iou <= 1:
            raise ValueError(
                f"Thresholds must satisfy 0 <= negative_iou <= positive_iou <= 1. Received: {self}"
            )

    def __call__(self, anchors, boxes, labels, level_counts=None):
        """Assigns anchors, or `(B, A, 4)` boxes of each image; see `Assigner`."""
        batch, count = ops.shape(labels)
        shape = (batch, ops.shape(anchors)[-2])
        least = math.inf if self.low_quality_iou is None else self.low_quality_iou

        def match_some(carry, objects):
            best_iou, assigned, last_claimant = carry
            index, real, boxes = objects
            iou = box_iou(ops.swapaxes(boxes, 0, 1), anchors)
            iou = ops.where(ops.transpose(real)[..., None], iou, -1.0)  # (B, some of N, A)
            best_of_some = ops.max(iou, axis=1)
            better = best_of_some > best_iou  # the first of equals wins
            first = ops.take(index, ops.argmax(iou, axis=1), axis=0)
            best_of_object = ops.max(iou, axis=2, keepdims=True)
            claims = (iou == best_of_object) & (best_of_object > 0) & (best_of_object >= least)
            claimant = ops.max(ops.where(claims, index[:, None], -1), axis=1)
            return (
                ops.where(better, best_of_some, best_iou),
                ops.where(better, first, assigned),
                ops.maximum(claimant, last_claimant),
            ), ()

        # In chunks of objects: all the IoUs of a crowded image would take gigabytes.
        nothing = ops.zeros(shape, "int32")
        (best_iou, assigned, last_claimant), _ = scan_chunks(
            match_some,
            (ops.full(shape, -1.0), nothing, nothing - 1),
            (
                ops.arange(count, dtype="int32"),
                ops.transpose(labels >= 0),  # also False where the last chunk is padded
                ops.swapaxes(boxes, 0, 1),
            ),
            num_chunks(count, shape, "float32", most=64),
            like=[],
        )
        claimed = last_claimant >= 0
        if self.reassign:
            assigned = ops.where(claimed, last_claimant, assigned)

        unmatched = ops.where(best_iou < self.negative_iou, NEGATIVE, IGNORED)
        positive = claimed | (best_iou >= self.positive_iou)
        return ops.where(positive, assigned, unmatched)


@keras.saving.register_keras_serializable(package="keras_dyhead")
@dataclasses.dataclass(frozen=True)
class ATSSAssigner(Assigner):
    """Assigns each object the nearby anchors with an IoU above an adaptive threshold.

    Candidates are the `top_k` anchors of every level with centers nearest to the object's center.
    A candidate is positive if its IoU is at least the mean plus the standard deviation of the
    candidates' IoUs, and its center lies inside the object. An anchor claimed by several objects
    goes to the one it overlaps most, the first of equals. An object may get no anchor.

    Args:
        top_k: int. Candidates per level. Defaults to 9.

    Example:
    ```python
    anchors = keras.ops.array([[0.0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [8, 8, 16, 16]])
    boxes = keras.ops.array([[[0.0, 0, 9, 9]]])
    labels = keras.ops.array([[2]])
    ATSSAssigner()(anchors, boxes, labels, level_counts=[4])  # [[0, -1, -1, -1]]
    ```

    Source: Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection via
    Adaptive Training Sample Selection", CVPR 2020, algorithm 1; sample standard deviation (divided
    by n - 1) and margin as in the reference implementations.
    """

    top_k: int = 9

    def __post_init__(self):
        if self.top_k < 1:
            raise ValueError(f"`top_k` must be at least 1. Received: {self}")

    def __call__(self, anchors, boxes, labels, level_counts):
        anchors = ops.convert_to_tensor(anchors, "float32")
        candidates = self._nearest(anchors, boxes, level_counts)  # (B, N, C)
        near = ops.take(anchors, candidates, axis=0)
        iou = box_iou(boxes[:, :, None], near)[:, :, 0]
        count = ops.cast(ops.shape(iou)[-1], "float32")
        mean = ops.mean(iou, axis=-1, keepdims=True)
        variance = ops.sum(ops.square(iou - mean), axis=-1, keepdims=True) / ops.maximum(
            count - 1, 1
        )
        centers = _centers(near)
        depth = ops.minimum(centers - boxes[:, :, None, :2], boxes[:, :, None, 2:] - centers)
        inside = ops.min(depth, axis=-1) > CENTER_MARGIN
        claims = inside & (iou >= mean + ops.sqrt(variance)) & (labels >= 0)[..., None]
        return _award(claims, iou, candidates, ops.shape(anchors)[0])

    def _nearest(self, anchors, boxes, level_counts):
        """Returns the indices `(B, N, C)` of the anchors nearest to each object on all levels."""
        anchor_centers = _centers(anchors)
        x, y = ops.unstack(_centers(boxes)[:, :, None], axis=-1)
        nearest, start = [], 0
        for count in level_counts:
            level = anchor_centers[start : start + count]
            distances = ops.square(level[:, 0] - x) + ops.square(level[:, 1] - y)
            index = _closest(distances, smaller(self.top_k, count))[1]
            nearest.append(ops.cast(index, "int32") + start)
            start = start + count
        return ops.concatenate(nearest, axis=-1)


@keras.saving.register_keras_serializable(package="keras_dyhead")
@dataclasses.dataclass(frozen=True)
class FCOSAssigner(Assigner):
    """Assigns each point the smallest object that contains it and fits its level.

    An object fits a level if its farthest side is between half of `max_distance` and
    `max_distance` away from the point. There is no lower limit on the finest level and no upper
    limit on the coarsest. Of objects of equal area, the first is assigned.

    Args:
        max_distance: float. In strides of the level. Defaults to 8.0: up to 64 px on P3, 64 to
            128 px on P4, and so on.
        center_radius: float or `None`. Points must lie within this many strides of the object's
            center along both axes ("center sampling"). `None` accepts any point inside the object.
            Defaults to 1.5.

    Example:
    ```python
    points = keras.ops.array([[4.0, 4, 8], [12, 4, 8], [20, 4, 8]])  # x, y, stride
    boxes = keras.ops.array([[[0.0, 0, 24, 8], [0, 0, 8, 8]]])
    FCOSAssigner()(points, boxes, labels=keras.ops.array([[2, 0]]))  # [[1, 0, 0]]
    ```

    Source: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", ICCV 2019, without
    center sampling; "FCOS: A Simple and Strong Anchor-Free Object Detector", TPAMI 2020, with it.
    """

    max_distance: float = 8.0
    center_radius: float | None = 1.5

    def __post_init__(self):
        if self.max_distance <= 0 or not (self.center_radius is None or self.center_radius > 0):
            raise ValueError(
                f"`max_distance` and `center_radius` must be positive. Received: {self}"
            )

    def __call__(self, points, boxes, labels, level_counts=None):
        points = ops.convert_to_tensor(points, "float32")
        *points, stride = ops.unstack(points, axis=-1)
        boxes = ops.cast(boxes, "float32")[:, :, None]
        sides = ops.unstack(boxes, axis=-1)  # four of (B, N, 1)
        farthest = functools.reduce(ops.maximum, _distances(sides, points))  # (B, N, A)
        limit = self.max_distance * stride
        smallest = ops.where(stride > ops.min(stride), limit / 2, 0.0)
        largest = ops.where(stride < ops.max(stride), limit, math.inf)
        fits = (farthest >= smallest) & (farthest <= largest)
        central = sides if self.center_radius is None else self._middles(sides, stride)
        inside = functools.reduce(ops.minimum, _distances(central, points)) > 0
        candidates = fits & inside & (labels >= 0)[..., None]
        area = ops.where(candidates, box_area(boxes), math.inf)
        assigned = ops.cast(ops.argmin(area, axis=1), "int32")
        return ops.where(ops.any(candidates, axis=1), assigned, NEGATIVE)

    def _middles(self, sides, stride):
        """Returns the sides `(B, N, A)` of the region of each box for points of each stride."""
        left, top, right, bottom = sides
        x, y, reach = (left + right) / 2, (top + bottom) / 2, self.center_radius * stride
        return (
            *(ops.maximum(x - reach, left), ops.maximum(y - reach, top)),
            *(ops.minimum(x + reach, right), ops.minimum(y + reach, bottom)),
        )


def nearest_points(points, boxes, labels):
    """Assigns each object the point nearest to its center, on the one level that fits its size.

    This is the coarsest level whose stride times `POINT_SCALE` does not exceed the square root of
    the object's area, or else the finest level. Distances are in widths and heights of the object.
    A point claimed by several objects goes to the nearest, the first of equals. Arguments and
    result are as in `Assigner`.

    Source: Yang et al., "RepPoints: Point Set Representation for Object Detection", ICCV 2019,
    section 3.3; levels as in OpenMMLab's mmdetection.
    """
    positions, strides = points[:, :2], points[:, 2]
    sizes = ops.maximum(boxes[..., 2:] - boxes[..., :2], 1e-6)
    sides = ops.sqrt(ops.prod(sizes, axis=-1, keepdims=True))
    fitting = ops.where(POINT_SCALE * strides <= sides, strides, ops.min(strides))  # (B, N, A)
    on_level = strides == ops.max(fitting, axis=-1, keepdims=True)
    offsets = (positions - _centers(boxes)[:, :, None]) / sizes[:, :, None]
    distances = ops.where(on_level, ops.norm(offsets, axis=-1), np.inf)
    merits, candidates = _closest(distances, 1)
    claims = (merits > -np.inf) & (labels >= 0)[..., None]
    return _award(claims, merits, ops.cast(candidates, "int32"), ops.shape(points)[0])


def _closest(distances, count):
    """Returns the largest of `-distances` and their indices, with ties in their original order."""
    if keras.backend.backend() != "torch":
        return ops.top_k(-distances, count)
    index = ops.argsort(distances, axis=-1)[..., :count]  # PyTorch's `topk` orders ties arbitrarily
    return -ops.take_along_axis(distances, index, axis=-1), index


def _centers(boxes):
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _distances(sides, points):
    """Returns the distances of points, x and y `(A,)`, to each side: four of `(B, N, A)`."""
    (left, top, right, bottom), (x, y) = sides, points
    return x - left, y - top, right - x, bottom - y


def _award(claims, merits, candidates, num_locations):
    """Assigns every claimed location the claimant with the most merit, the first of equals.

    `claims`, `merits` and `candidates` (indices of locations) are `(B, N, C)`. The result is
    `(B, num_locations)`: indices of the objects, -1 where there is no claim.
    """
    batch, num_objects, _ = ops.shape(claims)
    first_rows = ops.arange(batch, dtype="int32")[:, None, None] * num_locations
    rows = ops.reshape(candidates + first_rows, (-1,))
    merits = ops.reshape(ops.where(claims, merits, -np.inf), (-1,))
    best = ops.take(ops.segment_max(merits, rows, batch * num_locations), rows)
    rank = num_objects - ops.arange(num_objects, dtype="int32")  # the first object ranks highest
    rank = ops.reshape(ops.broadcast_to(rank[:, None], ops.shape(claims)), (-1,))
    rank = ops.where(ops.reshape(claims, (-1,)) & (merits == best), rank, 0)
    best_rank = ops.maximum(ops.segment_max(rank, rows, batch * num_locations), 0)
    awarded = ops.where(best_rank > 0, num_objects - best_rank, NEGATIVE)
    return ops.reshape(awarded, (batch, num_locations))
