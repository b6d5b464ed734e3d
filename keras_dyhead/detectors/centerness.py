"""How central a location is in its object."""

from keras import ops

from keras_dyhead.ops.boxes import encode_distances


def centerness_of(points, boxes):
    """Returns how central points are in boxes: 1 in the middle, 0 at and beyond the border.

    Args:
        points: `(A, 2)` x and y.
        boxes: `(..., A, 4)` xyxy boxes.

    Returns:
        `(..., A)` float32: the root of the product, over both axes, of the distance to the
        nearer side divided by that to the farther one.

    Source: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", equation 3.
    """
    distances = encode_distances(boxes, points)
    before, behind = distances[..., :2], distances[..., 2:]
    nearer, farther = ops.minimum(before, behind), ops.maximum(before, behind)
    return ops.sqrt(ops.prod(ops.relu(nearer) / ops.maximum(farther, 1e-6), axis=-1))
