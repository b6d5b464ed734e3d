"""Box arithmetic in float32 on `xyxy` pixel coordinates (no -1/+1 conventions)."""

import math

from keras import ops

MAX_LOG_SCALE = math.log(1000 / 16)
EPSILON = 1e-6  # pixels², the least area to divide by


def box_iou(boxes1, boxes2):
    """Computes the IoU of every pair of `(..., N, 4)` and `(..., M, 4)` xyxy boxes: `(..., N, M)`.

    Leading dimensions broadcast. The result is float32, 0 for boxes without area.
    """
    return paired_iou(boxes1[..., :, None, :], boxes2[..., None, :, :])


def paired_iou(boxes1, boxes2):
    """Computes the IoU of corresponding `(..., 4)` xyxy boxes: `(...)` float32, 0 without area."""
    intersection, union = _overlap(ops.cast(boxes1, "float32"), ops.cast(boxes2, "float32"))
    return intersection / union


def generalized_iou(boxes1, boxes2):
    """Computes the generalized IoU of corresponding `(..., 4)` xyxy boxes: `(...)` float32.

    It is the IoU minus the empty fraction of the enclosing box, from -1 (far apart) to 1 (equal).

    Source: Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019. Released codes
    keep divisors positive in different ways (union + 1e-7, max(union, 1e-6)), the same to 1e-6 for
    boxes of a pixel or more.
    """
    boxes1, boxes2 = ops.cast(boxes1, "float32"), ops.cast(boxes2, "float32")
    intersection, union = _overlap(boxes1, boxes2)
    corners = [
        ops.minimum(boxes1[..., :2], boxes2[..., :2]),
        ops.maximum(boxes1[..., 2:], boxes2[..., 2:]),
    ]
    hull = ops.maximum(box_area(ops.concatenate(corners, axis=-1)), EPSILON)
    return intersection / union - (hull - union) / hull


def box_area(boxes):
    """Computes the area of `(..., 4)` xyxy boxes, without clipping negative sides."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def is_empty(boxes):
    """Returns which of `(..., 4)` xyxy boxes have no area: `(...)` bool."""
    return ops.any(boxes[..., 2:] <= boxes[..., :2], axis=-1)


def encode_boxes(boxes, anchors, weights=(1.0, 1.0, 1.0, 1.0)):
    """Encodes `(..., 4)` xyxy boxes as offsets of center and log size relative to anchors.

    The float32 deltas (dx, dy, dw, dh) are multiplied by `weights`. `(10, 10, 5, 5)` corresponds to
    standard deviations of `(0.1, 0.1, 0.2, 0.2)`.
    """
    center, size = _center_and_size(boxes)
    anchor_center, anchor_size = _center_and_size(anchors)
    deltas = [(center - anchor_center) / anchor_size, ops.log(size / anchor_size)]
    return ops.concatenate(deltas, axis=-1) * ops.convert_to_tensor(weights, "float32")


def decode_boxes(deltas, anchors, weights=(1.0, 1.0, 1.0, 1.0)):
    """Applies deltas to anchors: the inverse of `encode_boxes`.

    After division, dw and dh are clamped to ±log(1000 / 16), so that no size overflows.
    """
    deltas = ops.cast(deltas, "float32") / ops.convert_to_tensor(weights, "float32")
    anchor_center, anchor_size = _center_and_size(anchors)
    center = deltas[..., :2] * anchor_size + anchor_center
    size = ops.exp(ops.clip(deltas[..., 2:], -MAX_LOG_SCALE, MAX_LOG_SCALE)) * anchor_size
    return ops.concatenate([center - size / 2, center + size / 2], axis=-1)


def encode_distances(boxes, points):
    """Encodes `(..., 4)` xyxy boxes as distances of their sides from points `(..., 2)`.

    The float32 distances to the left, top, right and bottom side are positive for points inside.
    """
    boxes, points = ops.cast(boxes, "float32"), ops.cast(points, "float32")
    return ops.concatenate([points - boxes[..., :2], boxes[..., 2:] - points], axis=-1)


def decode_distances(distances, points):
    """Decodes distances from points to boxes: the inverse of `encode_distances`."""
    distances, points = ops.cast(distances, "float32"), ops.cast(points, "float32")
    return ops.concatenate([points - distances[..., :2], points + distances[..., 2:]], axis=-1)


def clip_boxes(boxes, image_sizes):
    """Clips `(B, N, 4)` xyxy boxes to the `(B, 2)` (height, width) of their images."""
    limits = ops.flip(ops.cast(image_sizes, "float32"), axis=-1)
    limits = ops.concatenate([limits, limits], axis=-1)[:, None]
    return ops.clip(boxes, 0.0, limits)


def take_per_image(values, indices):
    """Gathers rows of each image: `out[b, n] = values[b, indices[b, n]]`."""
    batch, rows = ops.shape(values)[:2]
    flat = ops.reshape(values, (-1, *values.shape[2:]))
    return ops.take(flat, indices + ops.arange(batch, dtype=indices.dtype)[:, None] * rows, axis=0)


def _overlap(boxes1, boxes2):
    """Returns the areas of intersection and union, the union at least `EPSILON`."""
    width = ops.minimum(boxes1[..., 2], boxes2[..., 2]) - ops.maximum(
        boxes1[..., 0], boxes2[..., 0]
    )
    height = ops.minimum(boxes1[..., 3], boxes2[..., 3]) - ops.maximum(
        boxes1[..., 1], boxes2[..., 1]
    )
    intersection = ops.relu(width) * ops.relu(height)
    union = box_area(boxes1) + box_area(boxes2) - intersection
    return intersection, ops.maximum(union, EPSILON)


def _center_and_size(boxes):
    boxes = ops.cast(boxes, "float32")
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + size / 2, size
