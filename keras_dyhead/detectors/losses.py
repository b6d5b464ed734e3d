"""Element-wise losses of detectors in float32, and centerness targets."""

from keras import ops

from keras_dyhead.ops.boxes import encode_distances, generalized_iou, paired_iou


def sigmoid_focal_loss(targets, logits, alpha: float = 0.25, gamma: float = 2.0):
    """Computes the cross-entropy, down-weighted for well-classified examples.

    Keras' own `BinaryFocalCrossentropy` clips probabilities, which loses the gradient of confident
    mistakes. This function uses logits throughout.

    Args:
        targets: `(...)` float tensor of 0 and 1.
        logits: `(...)` float tensor.
        alpha: float. Weight of ones; zeros have weight `1 - alpha`. Defaults to 0.25.
        gamma: float. Focusing exponent. Defaults to 2.0.

    Returns:
        `(...)` float32 tensor of losses.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5.
    """
    targets, logits = ops.cast(targets, "float32"), ops.cast(logits, "float32")
    margin = (2 * targets - 1) * logits  # probability of the truth = sigmoid(margin)
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * ops.power(ops.sigmoid(-margin), gamma) * ops.softplus(-margin)


def smooth_l1_loss(targets, predictions, beta: float = 0.0):
    """Computes the absolute error, smoothed to a quadratic below `beta`.

    Args:
        targets: `(...)` float tensor.
        predictions: `(...)` float tensor.
        beta: float. Error below which the loss is quadratic; 0 is L1. Defaults to 0.0.

    Returns:
        `(...)` float32 tensor of losses.
    """
    error = ops.abs(ops.cast(predictions, "float32") - ops.cast(targets, "float32"))
    if not beta:
        return error
    return ops.where(error < beta, 0.5 * ops.square(error) / beta, error - 0.5 * beta)


def iou_loss(targets, boxes):
    """Returns minus the logarithm of the IoU of boxes with their targets.

    Args:
        targets: `(..., 4)` xyxy boxes.
        boxes: `(..., 4)` xyxy boxes.

    Returns:
        `(...)` float32 tensor of losses.

    Source: Yu et al., "UnitBox: An Advanced Object Detection Network", ACM MM 2016; IoUs are at
    least 1e-6, as in OpenMMLab's code.
    """
    return -ops.log(ops.maximum(paired_iou(boxes, targets), 1e-6))


def giou_loss(targets, boxes):
    """Returns one minus the generalized IoU of boxes with their targets.

    Args:
        targets: `(..., 4)` xyxy boxes.
        boxes: `(..., 4)` xyxy boxes.

    Returns:
        `(...)` float32 tensor of losses.
    """
    return 1.0 - generalized_iou(boxes, targets)


def centerness_of(points, boxes):
    """Returns how central points are in boxes: 1 at the center, 0 at or outside the border.

    This is the square root of the product, over both axes, of the distance to the nearer side
    divided by that to the farther side: `(..., A)` float32 for points `(A, 2)` and boxes
    `(..., A, 4)`.

    Source: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", equation 3.
    """
    distances = encode_distances(boxes, points)
    before, after = distances[..., :2], distances[..., 2:]
    nearer, farther = ops.minimum(before, after), ops.maximum(before, after)
    return ops.sqrt(ops.prod(ops.relu(nearer) / ops.maximum(farther, 1e-6), axis=-1))
