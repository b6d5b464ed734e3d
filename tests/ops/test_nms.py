"""Non-maximum suppression against the textbook loop in float64."""

import numpy as np
import pytest
from backend import run

from keras_dyhead.ops.nms import non_max_suppression


def greedy(boxes, scores, labels, threshold, places):
    """Sorts once, and keeps a box unless a kept box of its class overlaps it by more."""
    boxes, kept = boxes.astype("float64"), []
    for i in np.argsort(-scores, kind="stable"):
        if scores[i] <= 0 or len(kept) == places:
            break
        for k in kept:
            a, b = boxes[i], boxes[k]
            sides = np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]))
            areas = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])
            overlap = np.prod(sides) / (areas - np.prod(sides))
            if labels[i] == labels[k] and overlap > threshold:
                break
        else:
            kept.append(i)
    return kept + [-1] * (places - len(kept))


def crowd(seed, batch=3, count=150, classes=3):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (batch, count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 50, (batch, count, 2))], -1)
    scores = np.round(rng.uniform(-0.2, 1, (batch, count)), 2)  # rounded: many equal scores
    return boxes.astype("f"), scores.astype("f"), rng.integers(0, classes, (batch, count), "int32")


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("places", [1, 20, 200])
def test_the_greedy_loop_is_reproduced_with_ties_and_classes(threshold, places):
    boxes, scores, labels = crowd(seed=places)
    picked = run(
        lambda *candidates: non_max_suppression(*candidates, threshold, places),
        *(boxes, scores, labels),
    )
    expected = [
        greedy(*image, threshold, places) for image in zip(boxes, scores, labels, strict=True)
    ]
    np.testing.assert_array_equal(picked, expected)


@pytest.mark.tensorflow
def test_xla_and_graphs_of_unknown_shape_pick_the_same():
    import tensorflow as tf

    boxes, scores, labels = (tf.constant(x) for x in crowd(seed=0))
    eager = non_max_suppression(boxes, scores, labels, 0.5, 30)
    compiled = tf.function(non_max_suppression, jit_compile=True)
    traced = tf.function(non_max_suppression).get_concrete_function(
        tf.TensorSpec((None, None, 4)),
        tf.TensorSpec((None, None)),
        tf.TensorSpec((None, None), tf.int32),
        iou_threshold=0.5,
        max_detections=30,
    )
    np.testing.assert_array_equal(compiled(boxes, scores, labels, 0.5, 30), eager)
    np.testing.assert_array_equal(traced(boxes, scores, labels), eager)


def test_classes_do_not_suppress_each_other_far_from_the_origin():
    """The usual trick of shifting boxes by class loses these 0.01 px with 80 classes."""
    box = np.array([4000, 4000, 4000.02, 4000.02], "float32")
    boxes = np.tile(box, (1, 80, 1))
    scores = np.linspace(1, 0.5, 80, dtype="float32")[None]
    picked = run(
        lambda *candidates: non_max_suppression(*candidates, 0.5, 100),
        *(boxes, scores, np.arange(80)[None]),
    )
    np.testing.assert_array_equal(picked[0], [*range(80), *[-1] * 20])


def test_an_image_without_candidates_has_no_detections():
    boxes, scores, labels = crowd(seed=1, batch=2)
    scores[1] = 0
    picked = run(
        lambda *candidates: non_max_suppression(*candidates, 0.5, 10), boxes, scores, labels
    )
    assert (picked[0] >= 0).all()
    assert (picked[1] == -1).all()


@pytest.mark.parametrize("shape", [(2, 0), (0, 5), (0, 0)])
def test_nothing_is_picked_from_no_candidates_or_images(shape):
    arrays = np.zeros((*shape, 4), "float32"), np.ones(shape, "float32"), np.zeros(shape, "int32")
    picked = run(lambda *candidates: non_max_suppression(*candidates, 0.5, 10), *arrays)
    np.testing.assert_array_equal(picked, np.full((shape[0], 10), -1))


def test_equal_scores_come_in_order_and_nan_never():
    corners = 10 * np.arange(6, dtype="float32")
    boxes = np.stack([corners, corners, corners + 5, corners + 5], axis=-1)[None]
    scores = np.array([[0.5, np.nan, 0.5, 0.5, 0.7, 0.5]], "float32")
    picked = run(
        lambda *candidates: non_max_suppression(*candidates, 0.5, 6),
        *(boxes, scores, np.zeros((1, 6), "int32")),
    )
    assert picked.tolist() == [[4, 0, 2, 3, 5, -1]]
