"""Class-aware non-maximum suppression on whole batches."""

from keras import ops

from keras_dyhead.ops.boxes import box_iou, take_per_image


def non_max_suppression(
    boxes, scores, labels, iou_threshold: float = 0.5, max_detections: int = 100
):
    """Picks the best boxes greedily, each removing the boxes of its class that overlap it.

    The candidates of all classes compete for the `max_detections` places by score. Classes are
    compared as such: no box is moved apart by its class, so no coordinate loses precision. The
    loop picks one box of every image per turn and ends early when nothing is left; its graph is
    small, static in shape, and exports to SavedModel, ONNX and LiteRT.

    Args:
        boxes: `(B, N, 4)` xyxy boxes.
        scores: `(B, N)` scores; candidates with score <= 0 are never picked.
        labels: `(B, N)` int class of each candidate.
        iou_threshold: float. A candidate is removed when its IoU with a picked box of its class
            is larger than this. Defaults to 0.5.
        max_detections: int. Number of places per image. Defaults to 100.

    Returns:
        `(B, max_detections)` int32 indices into N by descending score (of equal scores the lower
        index first), padded with -1.
    """
    boxes, scores = ops.cast(boxes, "float32"), ops.cast(scores, "float32")
    places = ops.arange(max_detections, dtype="int32")
    candidates = ops.arange(ops.shape(scores)[1], dtype="int32")

    def candidates_left(turn, scores, picked):
        return ops.any(scores > 0)

    def pick(turn, scores, picked):
        best = ops.cast(ops.top_k(scores, 1)[1], "int32")  # Keras' argmax has no ONNX form
        exhausted = take_per_image(scores, best) <= 0
        picked = ops.where((places == turn) & ~exhausted, best, picked)
        overlap = box_iou(take_per_image(boxes, best), boxes)[:, 0] > iou_threshold
        same_class = ops.equal(labels, take_per_image(labels, best))  # `==` forgets shapes
        removed = (overlap & same_class) | (candidates == best)
        return turn + 1, ops.where(removed, 0.0, scores), picked

    nothing = ops.zeros_like(ops.sum(scores, axis=1, keepdims=True), dtype="int32") - 1
    nothing = nothing + ops.zeros_like(places)
    if 0 in tuple(scores.shape):
        return nothing
    turn = ops.zeros((), "int32")
    state = (turn, scores, nothing)
    return ops.while_loop(candidates_left, pick, state, maximum_iterations=max_detections)[2]
