"""FCOS's losses and head; test_detectors.py covers what all detectors share."""

import numpy as np
import pytest
import tensorflow as tf
from detectors.scenes import CLASSES, scene, small_detector

POINTS = np.array(
    [
        (2**level * (x + 0.5), 2**level * (y + 0.5))
        for level, (height, width) in enumerate([(8, 12), (4, 6), (2, 3)], start=3)
        for y in range(height)
        for x in range(width)
    ]
)


def overlaps(a, b):
    """IoU, and the empty fraction of the hull."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inner = np.prod(np.maximum(sides, 0))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner
    hull = np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2]))
    return inner / union, (hull - union) / hull


@pytest.mark.parametrize(("kind", "normalizer"), [("iou", "batch"), ("giou", "image")])
def test_losses_equal_a_loop_over_points(kind, normalizer):
    """Focal loss over all points, IoU weighted by centerness and cross-entropy on positives."""
    model = small_detector("fcos", box_loss=kind, box_loss_weight=3.0, loss_normalizer=normalizer)
    images, targets = scene()
    raw = {key: np.asarray(value) for key, value in model(images).items()}
    rng = np.random.default_rng(0)
    for key in ("class_logits", "centerness_logits"):
        raw[key] = rng.normal(size=raw[key].shape).astype("float32")
    raw["box_distances"] = rng.uniform(1, 40, raw["box_distances"].shape).astype("float32")
    objects = tf.constant(targets["boxes"]), tf.constant(targets["labels"], tf.int32)
    assigned = np.asarray(model.match(raw, *objects)[1])
    assert {-1, 0, 1} == set(assigned[0]) and {-1} == set(assigned[1])

    class_loss = box_loss = centerness_loss = total_centerness = 0.0
    for b, a in np.ndindex(*assigned.shape):
        n = assigned[b, a]
        for k in range(CLASSES):
            p = 1 / (1 + np.exp(-float(raw["class_logits"][b, a, k])))
            truth = n >= 0 and targets["labels"][b, n] == k
            class_loss -= 0.25 * (1 - p) ** 2 * np.log(p) if truth else 0
            class_loss -= 0.75 * p**2 * np.log(1 - p) if not truth else 0
        if n >= 0:
            box, (x, y) = targets["boxes"][b, n].astype("float64"), POINTS[a]
            left, top, right, bottom = x - box[0], y - box[1], box[2] - x, box[3] - y
            centerness = min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)
            centerness = centerness**0.5
            total_centerness += centerness
            left, top, right, bottom = raw["box_distances"][b, a].astype("float64")
            iou, empty = overlaps(np.array([x - left, y - top, x + right, y + bottom]), box)
            box_loss += 3 * centerness * (-np.log(iou) if kind == "iou" else 1 - iou + empty)
            q = 1 / (1 + np.exp(-float(raw["centerness_logits"][b, a])))
            centerness_loss -= centerness * np.log(q) + (1 - centerness) * np.log(1 - q)
    # With "image", the image without objects counts as one.
    positives = (assigned[0] >= 0).sum() + (normalizer == "image")
    losses = model.compute_losses(raw, *objects)
    expected = {
        "class_loss": class_loss / positives,
        "box_loss": box_loss / total_centerness,
        "centerness_loss": centerness_loss / positives,
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(losses[name], value, rtol=2e-5, err_msg=name)


@pytest.mark.parametrize("unit", ["pixel", "stride"])
def test_distances_are_exponentials_in_pixels_scaled_by_level(unit):
    model = small_detector("fcos", distance_unit=unit)
    images, _ = scene()
    head = model.head
    cells = [8 * 12, 4 * 6, 2 * 3]
    strides = np.repeat([8, 16, 32], cells)[None, :, None] if unit == "stride" else 1
    before = np.log(model(images)["box_distances"] / strides)
    assert before.std() > 0
    for i, scale in enumerate(head.level_scales):
        scale.assign(i + 2.0)
    factors = np.repeat([2, 3, 4], cells)[None, :, None]
    after = model(images)["box_distances"]
    np.testing.assert_allclose(after, np.exp(before * factors) * strides, rtol=1e-4)
    head.boxes.bias.assign(np.full(4, 1000.0))
    assert np.isfinite(model(images)["box_distances"]).all()


@pytest.mark.parametrize("branch", ["class", "box"])
def test_centerness_is_predicted_in_the_given_branch(branch):
    """The other branch's convolutions do not affect it."""
    model = small_detector("fcos", head_layers=1, centerness_branch=branch)
    images, _ = scene()
    before = {key: np.asarray(value) for key, value in model(images).items()}
    for name in ("class", "box"):
        head = small_detector("fcos", head_layers=1, centerness_branch=branch)
        (kernel,) = (w for w in head.weights if w.path.endswith(f"{name}_norm_0/gamma"))
        kernel.assign(-kernel)
        after = head(images)["centerness_logits"]
        assert np.array_equal(after, before["centerness_logits"]) == (name != branch)


def test_boxes_surround_their_points():
    model = small_detector("fcos")
    raw = model(scene()[0])
    points = model.locations([(8, 12), (4, 6), (2, 3)])
    boxes = np.asarray(model.boxes_at(points, raw))
    np.testing.assert_array_equal(points[:, :2], POINTS)
    assert (boxes[..., :2] < POINTS).all() and (boxes[..., 2:] > POINTS).all()


@pytest.mark.parametrize(
    "wrong", [{"box_loss": "l1"}, {"distance_unit": "metre"}, {"centerness_branch": "both"}]
)
def test_invalid_arguments_are_in_the_message(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"`{name}` must be one of .*'{value}'"):
        small_detector("fcos", **wrong)
