"""MaxIoUAssigner against the published assignments and against a loop."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.detectors.anchors import AnchorGenerator
from keras_dyhead.detectors.assigners import MaxIoUAssigner

# What detectron2 and mmdet 3.3.0 assign to the 9216 RetinaNet anchors of a 192x256 image (-1
# background, -2 ignored), the latter sorted into our order of the anchors of a cell.
PUBLISHED = np.load(Path(__file__).parent / "data" / "published_assignments.npz")
LEVEL_SIZES = [(24, 32), (12, 16), (6, 8), (3, 4), (2, 2)]


def loop(assigner, anchors, boxes, labels):
    anchors, boxes = anchors.astype("float64"), boxes.astype("float64")
    sides = np.minimum(boxes[:, None, 2:], anchors[:, 2:]) - np.maximum(
        boxes[:, None, :2], anchors[:, :2]
    )
    inner = np.prod(np.maximum(sides, 0), -1)
    area = [np.prod(b[:, 2:] - b[:, :2], -1) for b in (boxes, anchors)]
    iou = (inner / (area[0][:, None] + area[1] - inner)).astype("float32")  # ties as in float32
    real = np.flatnonzero(labels >= 0)
    assigned = np.full(len(anchors), -1)
    for a in range(len(anchors)):
        if len(real):
            best = real[np.argmax(iou[real, a])]
            if iou[best, a] >= assigner.positive_iou:
                assigned[a] = best
            elif iou[best, a] >= assigner.negative_iou:
                assigned[a] = -2
    for n in real:
        for a in np.flatnonzero(iou[n] == iou[n].max()):
            assigned[a] = n if assigner.reassign else real[np.argmax(iou[real, a])]
    return assigned


def scene(seed, count, padding=2):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 80, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(3, 60, (count, 2))], -1)
    boxes = np.concatenate([boxes, np.zeros((padding, 4))]).astype("float32")
    labels = np.concatenate([rng.integers(0, 5, count), np.full(padding, -1)]).astype("int32")
    return boxes, labels


# Whole coordinates, so that all areas are exact and small boxes tie between many anchors.
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
@pytest.mark.parametrize("count", [1, 8, 40])
def test_assignment_equals_a_loop_over_anchors_and_objects(count, reassign):
    assigner = MaxIoUAssigner(0.6, 0.3, reassign)
    boxes, labels = scene(count, count)
    assigned = np.asarray(assigner(ANCHORS, boxes[None], labels[None]))[0]
    np.testing.assert_array_equal(assigned, loop(assigner, ANCHORS, boxes, labels))
    assert {-2, -1} < set(assigned)


def test_images_with_none_and_with_hundreds_of_objects_share_a_batch():
    boxes, labels = scene(seed=3, count=300)
    nothing = np.zeros_like(boxes), np.full_like(labels, -1)
    batch = np.stack([boxes, nothing[0]]), np.stack([labels, nothing[1]])
    assigned = np.asarray(MaxIoUAssigner()(ANCHORS, *batch))
    np.testing.assert_array_equal(assigned[0], loop(MaxIoUAssigner(), ANCHORS, boxes, labels))
    assert (assigned[1] == -1).all()


def test_an_object_without_overlap_or_area_claims_no_anchor():
    boxes = np.array([[[900, 900, 950, 950], [30, 30, 30, 30]]], "float32")
    assigned = MaxIoUAssigner()(ANCHORS, boxes, np.array([[0, 1]]))
    assert (np.asarray(assigned) == -1).all()


@pytest.mark.parametrize("reassign", [True, False])
def test_xla_assigns_the_same(reassign):
    assigner = MaxIoUAssigner(reassign=reassign)
    boxes, labels = (x[None] for x in scene(seed=5, count=30))
    compiled = tf.function(assigner, jit_compile=True)(tf.constant(ANCHORS), boxes, labels)
    np.testing.assert_array_equal(compiled, assigner(ANCHORS, boxes, labels))


def test_wrong_thresholds_are_shown():
    with pytest.raises(ValueError, match="positive_iou=0.3, negative_iou=0.4"):
        MaxIoUAssigner(positive_iou=0.3)
