"""Class-aware non-maximum suppression on whole batches."""

import keras
from keras import ops

from keras_dyhead.ops.boxes import box_iou, take_per_image


def non_max_suppression(
    boxes, scores, labels, iou_threshold: float = 0.5, max_detections: int = 100
):
    """Picks the best boxes greedily; each removes the boxes of its class that overlap it.

    Candidates of all classes compete by score for the `max_detections` places. Boxes are not
    shifted by class, so no coordinate loses precision. The loop picks one box per image and step,
    and stops early when none is left. Its graph is small, has static shapes, and exports to
    SavedModel, ONNX and LiteRT.

    Args:
        boxes: `(B, N, 4)` xyxy boxes.
        scores: `(B, N)` scores; candidates with a score <= 0 or NaN are never picked.
        labels: `(B, N)` int class of each candidate.
        iou_threshold: float. A candidate is removed if its IoU with a picked box of its class is
            larger than this. Defaults to 0.5.
        max_detections: int. Number of places per image. Defaults to 100.

    Returns:
        `(B, max_detections)` int32 indices into N by descending score (lower index first for equal
        scores), padded with -1.
    """
    boxes, scores = ops.cast(boxes, "float32"), ops.cast(scores, "float32")
    scores = ops.where(scores > 0, scores, 0.0)  # also without NaN
    places = ops.arange(max_detections, dtype="int32")
    candidates = ops.arange(ops.shape(scores)[1], dtype="int32")

    def candidates_left(turn, scores, picked):
        return ops.any(scores > 0)

    def pick(turn, scores, picked):
        if keras.backend.backend() == "torch":  # whose `top_k` orders equal scores at random
            best = ops.cast(ops.argmax(scores, axis=1, keepdims=True), "int32")
        else:  # Keras' argmax does not export to ONNX
            best = ops.cast(ops.top_k(scores, 1)[1], "int32")
        exhausted = take_per_image(scores, best) <= 0
        picked = ops.where((places == turn) & ~exhausted, best, picked)
        overlap = box_iou(take_per_image(boxes, best), boxes)[:, 0] > iou_threshold
        same_class = ops.equal(labels, take_per_image(labels, best))  # `==` loses static shapes
        removed = (overlap & same_class) | (candidates == best)
        return turn + 1, ops.where(removed, 0.0, scores), picked

    nothing = ops.zeros_like(ops.sum(scores, axis=1, keepdims=True), dtype="int32") - 1
    nothing = nothing + ops.zeros_like(places)
    if 0 in tuple(scores.shape):
        return nothing
    turn = ops.zeros((), "int32")
    state = (turn, scores, nothing)
    return ops.while_loop(candidates_left, pick, state, maximum_iterations=max_detections)[2]
