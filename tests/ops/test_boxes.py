"""Box arithmetic against loops in float64."""

import math

import numpy as np
import pytest
from backend import vjp

from keras_dyhead.ops.boxes import (
    box_iou,
    clip_boxes,
    decode_boxes,
    decode_distances,
    encode_boxes,
    encode_distances,
    generalized_iou,
    paired_iou,
    take_per_image,
)


def random_boxes(rng, *shape):
    corner = rng.uniform(-20, 100, (*shape, 2))
    return np.concatenate([corner, corner + rng.uniform(1, 60, (*shape, 2))], -1).astype("float32")


def iou(a, b):
    a, b = [float(v) for v in a], [float(v) for v in b]
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (areas - width * height)


def test_iou_of_all_pairs_equals_a_loop():
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, 2, 7), random_boxes(rng, 2, 5)
    expected = [[[iou(x, y) for y in b[i]] for x in a[i]] for i in range(2)]
    np.testing.assert_allclose(box_iou(a, b), expected, atol=1e-6)
    pairs = [expected[i][j][j] for i, j in np.ndindex(2, 5)]
    np.testing.assert_allclose(np.ravel(paired_iou(a[:, :5], b)), pairs, atol=1e-6)


def test_iou_of_boxes_without_area_is_zero_not_nan():
    boxes = np.array([[0, 0, 0, 0], [5, 5, 5, 9], [0, 0, 9, 9]], "float32")
    np.testing.assert_array_equal(box_iou(boxes, boxes), np.diag([0, 0, 1]))


@pytest.mark.parametrize("epsilon", [0, 1e-7, 1e-6])
def test_generalized_iou_is_that_of_the_released_codes_whatever_their_epsilon(epsilon):
    """Microsoft adds 1e-7 to union and hull, OpenMMLab clamps both to at least 1e-6."""
    rng = np.random.default_rng(2)
    a, b = random_boxes(rng, 200), random_boxes(rng, 200)
    expected = []
    for x, y in zip(a.astype("float64"), b.astype("float64"), strict=True):
        areas = np.prod(x[2:] - x[:2]) + np.prod(y[2:] - y[:2])
        inner = iou(x, y) * areas / (1 + iou(x, y))
        union = areas - inner + epsilon
        hull = np.prod(np.maximum(x[2:], y[2:]) - np.minimum(x[:2], y[:2])) + epsilon
        expected.append(inner / union - (hull - union) / hull)
    assert min(expected) < -0.5 and max(expected) > 0.2
    np.testing.assert_allclose(generalized_iou(a, b), expected, atol=1e-6)


def test_generalized_iou_of_boxes_without_area_is_finite_and_has_a_gradient():
    boxes = np.array([[3, 3, 3, 3], [0, 0, 5, 5]], "float32")
    others = np.array([[3, 3, 3, 3], [9, 9, 12, 12]], "float32")
    value, (gradient,) = vjp(lambda b: generalized_iou(b, others), [boxes], np.ones(2, "float32"))
    assert np.isfinite(value).all() and np.isfinite(gradient).all()
    assert gradient[1].any()  # even though the boxes do not touch


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (10, 10, 5, 5)])
def test_deltas_follow_the_formula_and_decode_back(weights):
    rng = np.random.default_rng(1)
    boxes, anchors = random_boxes(rng, 3, 8), random_boxes(rng, 8)
    deltas = np.asarray(encode_boxes(boxes, anchors, weights))
    for i, (x1, y1, x2, y2) in np.ndenumerate(boxes.view("f4,f4,f4,f4")[..., 0]):
        ax1, ay1, ax2, ay2 = (float(v) for v in anchors[i[1]])
        aw, ah, w, h = ax2 - ax1, ay2 - ay1, float(x2) - x1, float(y2) - y1
        expected = [
            (x1 + w / 2 - ax1 - aw / 2) / aw,
            (y1 + h / 2 - ay1 - ah / 2) / ah,
            math.log(w / aw),
            math.log(h / ah),
        ]
        np.testing.assert_allclose(deltas[i], np.multiply(expected, weights), atol=1e-5)
    np.testing.assert_allclose(decode_boxes(deltas, anchors, weights), boxes, atol=1e-3)


def test_sizes_are_clamped_so_that_no_prediction_overflows():
    deltas = np.array([[0, 0, 500, -500]], "float32")
    box = np.asarray(decode_boxes(deltas, np.array([[-8, -8, 8, 8]], "float32")))[0]
    np.testing.assert_allclose(box, [-500, -0.128, 500, 0.128], rtol=1e-5)


def test_distances_are_those_to_the_sides_and_decode_back():
    box, points = np.array([10, 20, 50, 90], "float32"), np.array([[15, 30], [8, 95]], "float32")
    distances = encode_distances(box, points)
    np.testing.assert_array_equal(distances, [[5, 10, 35, 60], [-2, 75, 42, -5]])
    np.testing.assert_array_equal(decode_distances(distances, points), [box, box])


def test_boxes_are_clipped_to_the_height_and_width_of_their_image():
    boxes = np.tile(np.array([-5, -5, 90, 90], "float32"), (2, 1, 1))
    out = clip_boxes(boxes, [[40, 60], [100, 20]])
    np.testing.assert_array_equal(out, [[[0, 0, 60, 40]], [[0, 0, 20, 90]]])


@pytest.mark.tensorflow
def test_rows_are_taken_from_their_own_image_for_unknown_shapes():
    import tensorflow as tf

    values = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    indices = np.array([[2, 0], [1, 1]], "int32")
    traced = tf.function(take_per_image).get_concrete_function(
        tf.TensorSpec((None, None, 4), tf.int64), tf.TensorSpec((None, None), tf.int32)
    )
    expected = np.stack([values[0, [2, 0]], values[1, [1, 1]]])
    np.testing.assert_array_equal(take_per_image(values, indices), expected)
    np.testing.assert_array_equal(traced(tf.constant(values), tf.constant(indices)), expected)
