"""ATSS's losses and head; test_detectors.py covers what all detectors share."""

import numpy as np
import pytest
import tensorflow as tf
from detectors.scenes import CLASSES, scene, small_detector


def giou(a, b):
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inner = np.prod(np.maximum(sides, 0))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inner
    hull = np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2]))
    return inner / union - (hull - union) / hull


def decode(delta, anchor):
    size, center = anchor[2:] - anchor[:2], (anchor[2:] + anchor[:2]) / 2
    center, size = center + delta[:2] / 10 * size, size * np.exp(delta[2:] / 5)
    return np.concatenate([center - size / 2, center + size / 2])


@pytest.mark.parametrize("normalizer", ["image", "batch"])
def test_losses_equal_a_loop_over_anchors(normalizer):
    """Focal loss over all anchors, GIoU weighted by centerness and cross-entropy on positives."""
    model = small_detector("atss", box_loss_weight=3.0, loss_normalizer=normalizer)
    images, targets = scene()
    raw = {key: np.asarray(value) for key, value in model(images).items()}
    rng = np.random.default_rng(0)
    for key in ("class_logits", "box_deltas", "centerness_logits"):
        raw[key] = rng.normal(size=raw[key].shape).astype("float32")
    anchors = np.asarray(model.anchors([(8, 12), (4, 6), (2, 3)], 3), "float64")
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
            box, anchor = targets["boxes"][b, n].astype("float64"), anchors[a]
            x, y = (anchor[:2] + anchor[2:]) / 2
            left, top, right, bottom = x - box[0], y - box[1], box[2] - x, box[3] - y
            centerness = min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)
            centerness = centerness**0.5
            total_centerness += centerness
            predicted = decode(raw["box_deltas"][b, a].astype("float64"), anchor)
            box_loss += 3 * centerness * (1 - giou(predicted, box))
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


def test_confidence_is_class_probability_times_centerness():
    model = small_detector("atss")
    raw = dict(model(scene()[0]))
    raw["class_logits"] = tf.random.normal(raw["class_logits"].shape, seed=1)
    raw["centerness_logits"] = tf.random.normal(raw["centerness_logits"].shape, seed=2)
    products = tf.sigmoid(raw["class_logits"]) * tf.sigmoid(raw["centerness_logits"])[..., None]
    best = tf.reduce_max(products, axis=(1, 2))
    np.testing.assert_allclose(model.decode(raw)["confidence"][:, 0], best, rtol=1e-6)


def test_every_level_scales_its_deltas_by_its_own_weight():
    model = small_detector("atss")
    images, _ = scene()
    before = model(images)["box_deltas"]
    for i, scale in enumerate(model.head.level_scales):
        scale.assign(i + 2.0)
    factors = np.repeat([2, 3, 4], [8 * 12, 4 * 6, 2 * 3])[None, :, None]
    np.testing.assert_allclose(model(images)["box_deltas"], before * factors, rtol=1e-5)


def test_convolutions_before_the_predictions_are_normalized_and_have_no_bias():
    model = small_detector("atss", head_layers=2)
    head = {w.path.removeprefix("head/"): tuple(w.shape) for w in model.weights if "head" in w.path}
    for branch in ("class", "box"):
        for i in range(2):
            assert head[f"{branch}_conv_{i}/kernel"] == (3, 3, 16, 16)
            assert head[f"{branch}_norm_{i}/gamma"] == (16,)
            assert f"{branch}_conv_{i}/bias" not in head
    model.compile("sgd", run_eagerly=True)
    assert np.isfinite(model.train_on_batch(*scene())).all()
