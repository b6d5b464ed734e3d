"""Assigners against the published assignments and against loops.

test_published.py compares assignments to points with OpenMMLab's.
"""

import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.detectors.assigners import (
    ATSSAssigner,
    FCOSAssigner,
    MaxIoUAssigner,
    nearest_points,
)
from keras_dyhead.detectors.locations import AnchorGenerator, grid_points
from keras_dyhead.ops import chunks

# Assignments of detectron2 and mmdet 3.3.0 to the 9216 RetinaNet anchors of a 192x256 image (-1
# background, -2 ignored), those of mmdet sorted into our order of anchors within a cell.
PUBLISHED = np.load(Path(__file__).parent / "data" / "published_assignments.npz")
LEVEL_SIZES = [(24, 32), (12, 16), (6, 8), (3, 4), (2, 2)]


def max_iou_loop(assigner, anchors, boxes, labels):
    anchors, boxes = anchors.astype("float64"), boxes.astype("float64")
    sides = np.minimum(boxes[:, None, 2:], anchors[:, 2:]) - np.maximum(
        boxes[:, None, :2], anchors[:, :2]
    )
    inner = np.prod(np.maximum(sides, 0), -1)
    area = [np.prod(b[:, 2:] - b[:, :2], -1) for b in (boxes, anchors)]
    iou = (inner / (area[0][:, None] + area[1] - inner)).astype("float32")  # to tie like float32
    real = np.flatnonzero(labels >= 0)
    assigned = np.full(len(anchors), -1)
    for a in range(len(anchors)):
        if len(real):
            best = real[np.argmax(iou[real, a])]
            if iou[best, a] >= assigner.positive_iou:
                assigned[a] = best
            elif iou[best, a] >= assigner.negative_iou:
                assigned[a] = -2
    least = assigner.low_quality_iou
    for n in real if least is not None else ():
        if iou[n].max() < least:
            continue
        for a in np.flatnonzero(iou[n] == iou[n].max()):
            assigned[a] = n if assigner.reassign else real[np.argmax(iou[real, a])]
    return assigned


def whole_scene(seed, count, padding=2):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 80, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(3, 60, (count, 2))], -1)
    boxes = np.concatenate([boxes, np.zeros((padding, 4))]).astype("float32")
    labels = np.concatenate([rng.integers(0, 5, count), np.full(padding, -1)]).astype("int32")
    return boxes, labels


# Integer coordinates, so that all areas are exact and small boxes tie between many anchors.
ANCHORS = np.asarray(AnchorGenerator(2.0, 1, (1.0,))([(16, 16), (8, 8), (4, 4)], 3))


@pytest.mark.parametrize(
    ("name", "reassign"),
    [("openmmlab_g0", True), ("openmmlab_g1", True), ("microsoft", False)],
)
def test_the_published_assignment_is_reproduced_anchor_by_anchor(name, reassign):
    boxes = PUBLISHED[f"{name}_boxes"][None]
    anchors = AnchorGenerator()(LEVEL_SIZES, 3)
    labels = np.zeros(boxes.shape[:2], "int32")
    assigned = MaxIoUAssigner(reassign=reassign)(anchors, boxes, labels)
    np.testing.assert_array_equal(assigned[0], PUBLISHED[f"{name}_assigned"])


@pytest.mark.parametrize("reassign", [True, False])
@pytest.mark.parametrize("low_quality_iou", [0.0, 0.4, None])
@pytest.mark.parametrize("count", [8, 40])
def test_assignment_equals_a_loop_over_anchors_and_objects(count, low_quality_iou, reassign):
    assigner = MaxIoUAssigner(0.6, 0.3, reassign, low_quality_iou)
    boxes, labels = whole_scene(count, count)
    assigned = np.asarray(assigner(ANCHORS, boxes[None], labels[None]))[0]
    np.testing.assert_array_equal(assigned, max_iou_loop(assigner, ANCHORS, boxes, labels))
    assert {-2, -1} < set(assigned)


def test_images_with_no_objects_and_hundreds_of_objects_share_a_batch():
    boxes, labels = whole_scene(seed=3, count=300)
    nothing = np.zeros_like(boxes), np.full_like(labels, -1)
    batch = np.stack([boxes, nothing[0]]), np.stack([labels, nothing[1]])
    assigned = np.asarray(MaxIoUAssigner()(ANCHORS, *batch))
    np.testing.assert_array_equal(
        assigned[0], max_iou_loop(MaxIoUAssigner(), ANCHORS, boxes, labels)
    )
    assert (assigned[1] == -1).all()


@pytest.mark.parametrize("reassign", [True, False])
def test_chunks_give_the_same_matches_for_crowded_images(reassign, monkeypatch):
    scenes = whole_scene(0, 98), whole_scene(1, 40, padding=60)
    boxes, labels = (np.stack(x) for x in zip(*scenes, strict=True))
    assigner = MaxIoUAssigner(reassign=reassign)
    whole = np.asarray(assigner(ANCHORS, boxes, labels))
    monkeypatch.setitem(chunks.CHUNK_BYTES, "cpu", 7 * 2 * len(ANCHORS) * 4)  # 7 objects
    np.testing.assert_array_equal(assigner(ANCHORS, boxes, labels), whole)


def test_an_object_without_overlap_or_area_claims_no_anchor():
    boxes = np.array([[[900, 900, 950, 950], [30, 30, 30, 30]]], "float32")
    assigned = MaxIoUAssigner()(ANCHORS, boxes, np.array([[0, 1]]))
    assert (np.asarray(assigned) == -1).all()


@pytest.mark.parametrize("reassign", [True, False])
def test_xla_assigns_the_same_anchors_by_iou(reassign):
    assigner = MaxIoUAssigner(reassign=reassign)
    boxes, labels = (x[None] for x in whole_scene(seed=5, count=30))
    compiled = tf.function(assigner, jit_compile=True)(tf.constant(ANCHORS), boxes, labels)
    np.testing.assert_array_equal(compiled, assigner(ANCHORS, boxes, labels))


def test_invalid_thresholds_are_in_the_message():
    with pytest.raises(ValueError, match="positive_iou=0.3, negative_iou=0.4"):
        MaxIoUAssigner(positive_iou=0.3)


SQUARES = AnchorGenerator(4.0, 1, (1.0,), offset=0.5)
COUNTS = [16 * 16, 8 * 8, 2 * 2]  # the last level has fewer anchors than `top_k`
ATSS_ANCHORS = np.asarray(SQUARES([(16, 16), (8, 8), (2, 2)], 3))


def atss_loop(assigner, anchors, boxes, labels):
    """Algorithm 1 of the ATSS paper in float64, object by object."""
    anchors, boxes = anchors.astype("float64"), boxes.astype("float64")
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    assigned, best = np.full(len(anchors), -1), np.full(len(anchors), -np.inf)
    for n in np.flatnonzero(labels >= 0):
        distance = np.linalg.norm(centers - (boxes[n, :2] + boxes[n, 2:]) / 2, axis=1)
        candidates, start = [], 0
        for count in COUNTS:
            order = np.argsort(distance[start : start + count], kind="stable")
            candidates += list(start + order[: assigner.top_k])
            start += count
        near = anchors[candidates]
        sides = np.minimum(boxes[n, 2:], near[:, 2:]) - np.maximum(boxes[n, :2], near[:, :2])
        inner = np.prod(np.maximum(sides, 0), -1)
        area = np.prod(boxes[n, 2:] - boxes[n, :2]) + np.prod(near[:, 2:] - near[:, :2], -1)
        iou = inner / (area - inner)
        threshold = iou.mean() + iou.std(ddof=1)
        for a, overlap in zip(candidates, iou, strict=True):
            inside = np.concatenate([centers[a] - boxes[n, :2], boxes[n, 2:] - centers[a]])
            if overlap >= threshold and inside.min() > 0.01 and overlap > best[a]:
                assigned[a], best[a] = n, overlap
    return assigned


def uneven_scene(seed, count):
    """Boxes placed so that no two anchors are equally near or overlap equally."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 90, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(6, 60, (count, 2))], -1)
    boxes = np.concatenate([boxes, np.zeros((2, 4))]).astype("float32")
    labels = np.concatenate([rng.integers(0, 5, count), [-1, -1]]).astype("int32")
    return boxes, labels


@pytest.mark.parametrize("top_k", [9, 5])
@pytest.mark.parametrize("count", [1, 8, 300])
def test_adaptive_assignment_equals_a_loop_over_objects(count, top_k):
    assigner = ATSSAssigner(top_k=top_k)
    boxes, labels = uneven_scene(count, count)
    nothing = np.zeros_like(boxes), np.full_like(labels, -1)
    batch = np.stack([boxes, nothing[0]]), np.stack([labels, nothing[1]])
    assigned = np.asarray(assigner(ATSS_ANCHORS, *batch, COUNTS))
    expected = atss_loop(assigner, ATSS_ANCHORS, boxes, labels)
    assert assigned.shape == (2, len(ATSS_ANCHORS)) and (expected >= 0).sum() >= min(count, 40)
    np.testing.assert_array_equal(assigned[0], expected)
    assert (assigned[1] == -1).all()


def test_the_first_of_equal_objects_gets_the_anchors():
    box, label = uneven_scene(0, 1)[0][:1], np.zeros(1, "int32")
    twice = ATSSAssigner()(ATSS_ANCHORS, box.repeat(2, 0)[None], label.repeat(2)[None], COUNTS)
    once = ATSSAssigner()(ATSS_ANCHORS, box[None], label[None], COUNTS)
    np.testing.assert_array_equal(twice, once)
    assert int(np.max(once)) == 0


def test_xla_and_dynamic_sizes_assign_the_same():
    assigner = ATSSAssigner()
    boxes, labels = (x[None] for x in uneven_scene(5, 30))
    expected = assigner(ATSS_ANCHORS, boxes, labels, COUNTS)
    anchors = tf.constant(ATSS_ANCHORS)
    compiled = tf.function(lambda *args: assigner(*args, COUNTS), jit_compile=True)
    np.testing.assert_array_equal(compiled(anchors, boxes, labels), expected)
    traced = tf.function(
        lambda a, b, c, n: assigner(a, b, c, [n[0], n[1], n[2]])
    ).get_concrete_function(
        tf.TensorSpec((None, 4)),
        tf.TensorSpec((None, None, 4)),
        tf.TensorSpec((None, None), tf.int32),
        tf.TensorSpec((3,), tf.int32),
    )
    found = traced(anchors, tf.constant(boxes), tf.constant(labels), tf.constant(COUNTS))
    np.testing.assert_array_equal(found, expected)


def test_zero_candidates_are_rejected():
    with pytest.raises(ValueError, match="top_k=0"):
        ATSSAssigner(top_k=0)


CENTERS = np.asarray(grid_points([(16, 16), (8, 8), (4, 4)], 3, 0.5))


def fcos_loop(assigner, boxes, labels):
    assigned = np.full(len(CENTERS), -1)
    for a, (x, y, stride) in enumerate(CENTERS.astype("float64")):
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


def limit_scene(count):
    """Boxes with integer sides, so that sides lie on points and at the limits of levels."""
    rng = np.random.default_rng(count)
    corner = rng.integers(0, 110, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(2, 120, (count, 2))], -1)
    boxes = np.concatenate([boxes, np.zeros((2, 4))]).astype("float32")
    return boxes, np.concatenate([rng.integers(0, 5, count), [-1, -1]]).astype("int32")


@pytest.mark.parametrize("radius", [None, 1.5, 0.75])
@pytest.mark.parametrize("count", [1, 8, 300])
def test_assignment_equals_a_loop_over_points_and_objects(count, radius):
    assigner = FCOSAssigner(max_distance=4.0, center_radius=radius)
    boxes, labels = limit_scene(count)
    nothing = np.zeros_like(boxes), np.full_like(labels, -1)
    batch = np.stack([boxes, nothing[0]]), np.stack([labels, nothing[1]])
    assigned = np.asarray(assigner(CENTERS, *batch))
    expected = fcos_loop(assigner, boxes, labels)
    assert (expected >= 0).any() and (expected == -1).any()
    np.testing.assert_array_equal(assigned[0], expected)
    assert (assigned[1] == -1).all()


def test_levels_share_objects_by_size_without_gaps():
    """By default up to 64 px on P3, 64 to 128 px on P4 and larger on P5, limits included."""
    for side, levels in [(60, {8}), (120, {8}), (128.0, {8, 16}), (200, {16}), (600, {32})]:
        x, y = 4 + 8 * 8, 4 + 8 * 8  # a point of P3, at the center of the object
        box = np.array([[[x - side / 2, y - side / 2, x + side / 2, y + side / 2]]], "float32")
        points = np.array([[x, y, stride] for stride in (8, 16, 32)], "float32")
        assigned = np.asarray(FCOSAssigner()(points, box, np.array([[0]])))[0]
        assert set(points[assigned == 0, 2]) == levels, side


def test_the_first_of_equal_objects_gets_the_points():
    boxes, labels = limit_scene(1)
    twice = FCOSAssigner()(CENTERS, boxes[:1].repeat(2, 0)[None], labels[:1].repeat(2)[None])
    once = FCOSAssigner()(CENTERS, boxes[None, :1], labels[None, :1])
    np.testing.assert_array_equal(twice, once)
    assert int(np.max(once)) == 0


def test_xla_assigns_the_same_points_by_size():
    boxes, labels = (x[None] for x in limit_scene(30))
    compiled = tf.function(FCOSAssigner(), jit_compile=True)(tf.constant(CENTERS), boxes, labels)
    np.testing.assert_array_equal(compiled, FCOSAssigner()(CENTERS, boxes, labels))


def test_limits_survive_serialization_and_invalid_ones_are_in_the_message():
    assigner = FCOSAssigner(center_radius=None)
    config = keras.saving.serialize_keras_object(assigner)
    assert keras.saving.deserialize_keras_object(config) == assigner
    for wrong in ({"max_distance": 0}, {"center_radius": -1.0}):
        with pytest.raises(ValueError, match="Received: FCOSAssigner"):
            FCOSAssigner(**wrong)


CORNERS = np.asarray(grid_points([(16, 16), (8, 8), (4, 4)], 3, 0.0))


def nearest_loop(boxes, labels):
    """Object by object, in float64, with levels from logarithms."""
    assigned = np.full(len(CORNERS), -1)
    nearest = np.full(len(CORNERS), np.inf)
    for n in np.flatnonzero(labels >= 0):
        left, top, right, bottom = boxes[n].astype("float64")
        width, height = right - left, bottom - top
        level = math.log2(width / 4) + math.log2(height / 4)
        level = min(max(math.floor(level / 2), 3), 5)
        on_level = np.flatnonzero(CORNERS[:, 2] == 2**level)
        x = (CORNERS[on_level, 0] - (left + right) / 2) / width
        y = (CORNERS[on_level, 1] - (top + bottom) / 2) / height
        distance = np.hypot(x, y)
        i = np.argmin(distance)
        if distance[i] < nearest[on_level[i]]:
            assigned[on_level[i]], nearest[on_level[i]] = n, distance[i]
    return assigned


def central_scene(seed, count, padding=2):
    """Objects with centers far from the midpoint between two points."""
    rng = np.random.default_rng(seed)
    centers = rng.integers(0, 16, (count, 2)) * 8 + rng.uniform(-3, 3, (count, 2))
    sizes = rng.uniform(3, 150, (count, 2))
    boxes = np.concatenate([centers - sizes / 2, centers + sizes / 2], -1)
    boxes = np.concatenate([boxes, np.zeros((padding, 4))]).astype("float32")
    labels = np.concatenate([rng.integers(0, 5, count), np.full(padding, -1)]).astype("int32")
    return boxes, labels


@pytest.mark.parametrize("count", [1, 12, 200])
def test_assignment_to_the_nearest_points_equals_a_loop_over_objects(count):
    boxes, labels = central_scene(count, count)
    assigned = np.asarray(nearest_points(CORNERS, boxes[None], labels[None]))[0]
    np.testing.assert_array_equal(assigned, nearest_loop(boxes, labels))
    assert (assigned >= 0).sum() >= min(count, 12) / 2


def test_power_of_two_sizes_belong_to_the_coarser_level():
    """Logarithms in float32 may be just below an integer there."""
    for width, height, stride in [(63, 64, 8), (64, 64, 16), (32, 128, 16), (16, 1024, 32)]:
        boxes = np.array([[[0, 0, width, height]]], "float32")
        assigned = np.asarray(nearest_points(CORNERS, boxes, np.array([[1]])))[0]
        assert CORNERS[assigned == 0, 2] == [stride]


def test_the_nearer_object_gets_the_point_or_the_first_of_equals():
    boxes = np.array([[[0, 0, 20, 20], [0, 0, 17, 17]]], "float32")
    for order, winner in [([0, 1], 1), ([1, 0], 0), ([0, 1, 1], 1), ([0, 0], 0)]:
        labels = np.zeros((1, len(order)), "int32")
        assigned = np.asarray(nearest_points(CORNERS, boxes[:, order], labels))[0]
        assert assigned[17] == winner and (assigned >= 0).sum() == 1


def test_points_for_hundreds_of_objects_and_for_none_share_a_batch():
    boxes, labels = central_scene(seed=3, count=300)
    batch = np.stack([boxes, boxes * 0]), np.stack([labels, labels * 0 - 1])
    assigned = np.asarray(nearest_points(CORNERS, *batch))
    np.testing.assert_array_equal(assigned[0], nearest_loop(boxes, labels))
    assert (assigned[1] == -1).all()


def test_xla_assigns_the_same_points_by_distance():
    boxes, labels = (x[None] for x in central_scene(seed=5, count=30))
    compiled = tf.function(nearest_points, jit_compile=True)(tf.constant(CORNERS), boxes, labels)
    np.testing.assert_array_equal(compiled, nearest_points(CORNERS, boxes, labels))
