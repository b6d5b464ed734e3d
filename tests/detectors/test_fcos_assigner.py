"""FCOSAssigner against a loop over points and objects; test_published.py has OpenMMLab's result."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.detectors import FCOSAssigner, PointGenerator

POINTS = np.asarray(PointGenerator()([(16, 16), (8, 8), (4, 4)], 3))


def loop(assigner, boxes, labels):
    assigned = np.full(len(POINTS), -1)
    for a, (x, y, stride) in enumerate(POINTS.astype("float64")):
        smallest = np.inf
        for n in np.flatnonzero(labels >= 0):
            left, top, right, bottom = boxes[n].astype("float64")
            farthest = max(x - left, y - top, right - x, bottom - y)
            limit = assigner.max_distance * stride
            if (farthest < limit / 2 and stride > 8) or (farthest > limit and stride < 32):
                continue
            inside = left < x < right and top < y < bottom
            if assigner.center_radius is not None:
                reach = assigner.center_radius * stride
                inside &= abs(x - (left + right) / 2) < reach
                inside &= abs(y - (top + bottom) / 2) < reach
            area = (right - left) * (bottom - top)
            if inside and area < smallest:
                assigned[a], smallest = n, area
    return assigned


def scene(count):
    """Boxes with whole sides, so that sides lie on points and at the limits of levels."""
    rng = np.random.default_rng(count)
    corner = rng.integers(0, 110, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(2, 120, (count, 2))], -1)
    boxes = np.concatenate([boxes, np.zeros((2, 4))]).astype("float32")
    return boxes, np.concatenate([rng.integers(0, 5, count), [-1, -1]]).astype("int32")


@pytest.mark.parametrize("radius", [None, 1.5, 0.75])
@pytest.mark.parametrize("count", [1, 8, 300])
def test_assignment_equals_a_loop_over_points_and_objects(count, radius):
    assigner = FCOSAssigner(max_distance=4.0, center_radius=radius)
    boxes, labels = scene(count)
    nothing = np.zeros_like(boxes), np.full_like(labels, -1)
    batch = np.stack([boxes, nothing[0]]), np.stack([labels, nothing[1]])
    assigned = np.asarray(assigner(POINTS, *batch))
    expected = loop(assigner, boxes, labels)
    assert (expected >= 0).any() and (expected == -1).any()
    np.testing.assert_array_equal(assigned[0], expected)
    assert (assigned[1] == -1).all()


def test_levels_share_objects_by_size_without_gaps():
    """By default up to 64 px on P3, 64 to 128 px on P4 and all above on P5, limits included."""
    for side, levels in [(60, {8}), (120, {8}), (128.0, {8, 16}), (200, {16}), (600, {32})]:
        x, y = 4 + 8 * 8, 4 + 8 * 8  # a point of P3, in the middle of the object
        box = np.array([[[x - side / 2, y - side / 2, x + side / 2, y + side / 2]]], "float32")
        points = np.array([[x, y, stride] for stride in (8, 16, 32)], "float32")
        assigned = np.asarray(FCOSAssigner()(points, box, np.array([[0]])))[0]
        assert set(points[assigned == 0, 2]) == levels, side


def test_of_equal_objects_the_first_gets_the_points():
    boxes, labels = scene(1)
    twice = FCOSAssigner()(POINTS, boxes[:1].repeat(2, 0)[None], labels[:1].repeat(2)[None])
    once = FCOSAssigner()(POINTS, boxes[None, :1], labels[None, :1])
    np.testing.assert_array_equal(twice, once)
    assert int(np.max(once)) == 0


def test_xla_assigns_the_same():
    boxes, labels = (x[None] for x in scene(30))
    compiled = tf.function(FCOSAssigner(), jit_compile=True)(tf.constant(POINTS), boxes, labels)
    np.testing.assert_array_equal(compiled, FCOSAssigner()(POINTS, boxes, labels))


def test_settings_survive_serialization_and_wrong_ones_are_shown():
    assigner = FCOSAssigner(center_radius=None)
    config = keras.saving.serialize_keras_object(assigner)
    assert keras.saving.deserialize_keras_object(config) == assigner
    for wrong in ({"max_distance": 0}, {"center_radius": -1.0}):
        with pytest.raises(ValueError, match="Received: FCOSAssigner"):
            FCOSAssigner(**wrong)
