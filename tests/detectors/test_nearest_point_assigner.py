"""The assignment of points to the objects with the nearest centres, against a loop."""

import math

import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.detectors import NearestPointAssigner, PointGenerator

POINTS = np.asarray(PointGenerator(0.0)([(16, 16), (8, 8), (4, 4)], 3))


def loop(assigner, boxes, labels):
    """One object after the other, in float64, the level from logarithms."""
    assigned = np.full(len(POINTS), -1)
    nearest = np.full(len(POINTS), np.inf)
    for n in np.flatnonzero(labels >= 0):
        left, top, right, bottom = boxes[n].astype("float64")
        width, height = right - left, bottom - top
        level = math.log2(width / assigner.scale) + math.log2(height / assigner.scale)
        level = min(max(math.floor(level / 2), 3), 5)
        on_level = np.flatnonzero(POINTS[:, 2] == 2**level)
        x = (POINTS[on_level, 0] - (left + right) / 2) / width
        y = (POINTS[on_level, 1] - (top + bottom) / 2) / height
        distance = np.hypot(x, y)
        for i in np.argsort(distance, kind="stable")[: assigner.top_k]:
            if distance[i] < nearest[on_level[i]]:
                assigned[on_level[i]], nearest[on_level[i]] = n, distance[i]
    return assigned


def scene(seed, count, padding=2):
    """Objects whose centres lie nowhere near the middle between two points."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 16, (count, 2)) * 8 + rng.uniform(-3, 3, (count, 2))
    sizes = rng.uniform(3, 150, (count, 2))
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], -1)
    boxes = np.concatenate([boxes, np.zeros((padding, 4))]).astype("float32")
    labels = np.concatenate([rng.integers(0, 5, count), np.full(padding, -1)]).astype("int32")
    return boxes, labels


@pytest.mark.parametrize(("scale", "top_k"), [(4.0, 1), (2.0, 1), (4.0, 5)])
@pytest.mark.parametrize("count", [1, 12, 200])
def test_assignment_equals_a_loop_over_objects(count, scale, top_k):
    assigner = NearestPointAssigner(scale, top_k)
    boxes, labels = scene(count, count)
    assigned = np.asarray(assigner(POINTS, boxes[None], labels[None]))[0]
    np.testing.assert_array_equal(assigned, loop(assigner, boxes, labels))
    assert (assigned >= 0).sum() >= min(count, 12) * top_k / 2


def test_sizes_of_a_power_of_two_belong_to_the_coarser_level():
    """Where logarithms in float32 may come out just below a whole number."""
    for width, height, stride in [(63, 64, 8), (64, 64, 16), (32, 128, 16), (16, 1024, 32)]:
        boxes = np.array([[[0, 0, width, height]]], "float32")
        assigned = np.asarray(NearestPointAssigner()(POINTS, boxes, np.array([[1]])))[0]
        assert POINTS[assigned == 0, 2] == [stride]


def test_of_two_objects_the_nearer_gets_the_point_and_of_equals_the_first():
    boxes = np.array([[[0, 0, 20, 20], [0, 0, 17, 17]]], "float32")
    for order, winner in [([0, 1], 1), ([1, 0], 0), ([0, 1, 1], 1), ([0, 0], 0)]:
        labels = np.zeros((1, len(order)), "int32")
        assigned = np.asarray(NearestPointAssigner()(POINTS, boxes[:, order], labels))[0]
        assert assigned[17] == winner and (assigned >= 0).sum() == 1


def test_a_batch_holds_images_with_none_and_with_hundreds_of_objects():
    boxes, labels = scene(seed=3, count=300)
    batch = np.stack([boxes, boxes * 0]), np.stack([labels, labels * 0 - 1])
    assigned = np.asarray(NearestPointAssigner()(POINTS, *batch))
    np.testing.assert_array_equal(assigned[0], loop(NearestPointAssigner(), boxes, labels))
    assert (assigned[1] == -1).all()


def test_xla_assigns_the_same():
    boxes, labels = (x[None] for x in scene(seed=5, count=30))
    assigner = NearestPointAssigner(top_k=3)
    compiled = tf.function(assigner, jit_compile=True)(tf.constant(POINTS), boxes, labels)
    np.testing.assert_array_equal(compiled, assigner(POINTS, boxes, labels))


def test_wrong_settings_are_shown():
    with pytest.raises(ValueError, match="top_k=0"):
        NearestPointAssigner(top_k=0)
