"""RepPoints' head and losses; test_detectors.py covers what all detectors share."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from detectors.scenes import CLASSES, scene, small_detector

from keras_dyhead.detectors import reppoints_head
from keras_dyhead.detectors.reppoints_head import TAPS, RepPointsHead, moment_boxes

LEVELS = [(8, 12), (4, 6), (2, 3)]


def iou(a, b):
    sides = np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]))
    return np.prod(sides) / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - np.prod(sides))


def smooth_l1(error, beta):
    error = np.abs(error)
    return np.where(error < beta, error**2 / (2 * beta), error - beta / 2).sum()


@pytest.mark.parametrize("normalizer", ["image", "batch"])
def test_losses_equal_a_loop_over_points(normalizer):
    """Focal loss and smooth L1 where initial boxes overlap, smooth L1 at the nearest points."""
    model = small_detector("reppoints", smooth_l1_beta=0.3, loss_normalizer=normalizer)
    images, targets = scene()
    raw = {key: np.asarray(value) for key, value in model(images).items()}
    rng = np.random.default_rng(0)
    shape = raw["class_logits"].shape
    raw["class_logits"] = rng.normal(size=shape).astype("float32")
    for key in ("initial_boxes", "refined_boxes"):
        center, half = rng.normal(0, 1, (*shape[:2], 2)), rng.uniform(1, 4, (*shape[:2], 2))
        raw[key] = np.concatenate([center - half, center + half], -1).astype("float32")
    points = [
        (x * 2**level, y * 2**level, 2**level)
        for level, (height, width) in enumerate(LEVELS, 3)
        for y in range(height)
        for x in range(width)
    ]

    def box(key, b, a):
        x, y, stride = points[a]
        return raw[key][b, a].astype("float64") * stride + [x, y, x, y]

    objects = tf.constant(targets["boxes"]), tf.constant(targets["labels"], tf.int32)
    boxes = targets["boxes"].astype("float64")
    positives = {}
    class_loss = box_loss = initial_loss = 0.0
    assigned = np.asarray(model.match(raw, *objects)[1])
    assert {-2, -1, 0, 1} == set(assigned[0]) and {-1} == set(assigned[1])
    for b, a in np.ndindex(*assigned.shape):
        n = assigned[b, a]
        overlaps = [iou(box("initial_boxes", b, a), boxes[b, i]) for i in range(2 if b == 0 else 0)]
        if n == -1:
            assert max(overlaps, default=0) < 0.4
        for k in range(CLASSES if n != -2 else 0):
            p = 1 / (1 + np.exp(-float(raw["class_logits"][b, a, k])))
            truth = n >= 0 and targets["labels"][b, n] == k
            class_loss -= 0.25 * (1 - p) ** 2 * np.log(p) if truth else 0
            class_loss -= 0.75 * p**2 * np.log(1 - p) if not truth else 0
        if n >= 0:
            error = (box("refined_boxes", b, a) - boxes[b, n]) / (4 * points[a][2])
            box_loss += smooth_l1(error, 0.3)
    positives["refined"] = (assigned[0] >= 0).sum() + (normalizer == "image")

    initial = np.asarray(model.match_initial(raw, *objects)[1])
    assert sorted(initial[0][initial[0] >= 0]) == [0, 1] and {-1} == set(initial[1])
    for a in np.flatnonzero(initial[0] >= 0):
        error = (box("initial_boxes", 0, a) - boxes[0, initial[0, a]]) / (4 * points[a][2])
        initial_loss += 0.5 * smooth_l1(error, 0.3)
    expected = {
        "class_loss": class_loss / positives["refined"],
        "initial_box_loss": initial_loss / (2 + (normalizer == "image")),
        "box_loss": box_loss / positives["refined"],
    }
    losses = model.compute_losses(raw, *objects)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(losses[name], value, rtol=1e-5, err_msg=name)


def test_boxes_are_the_means_and_deviations_of_points():
    points = np.random.default_rng(0).normal(1, 2, (3, 5, 18))
    x, y = points[..., 1::2], points[..., ::2]
    half_width, half_height = 1.5 * x.std(-1, ddof=1), 0.5 * y.std(-1, ddof=1)
    x, y = x.mean(-1), y.mean(-1)
    expected = np.stack([x - half_width, y - half_height, x + half_width, y + half_height], -1)
    boxes = moment_boxes(points.astype("float32"), np.log(np.array([1.5, 0.5], "float32")))
    np.testing.assert_allclose(boxes, expected, atol=1e-5)


def test_coinciding_points_have_an_empty_box_and_finite_gradients():
    points, transfer = tf.Variable(tf.ones((1, 18))), tf.Variable(tf.zeros(2))
    with tf.GradientTape() as tape:
        boxes = moment_boxes(points, transfer)
    np.testing.assert_allclose(boxes, tf.ones((1, 4)), atol=1e-5)
    assert all(np.isfinite(g).all() for g in tape.gradient(boxes, [points, transfer]))


def built_head(**arguments):
    keras.utils.set_random_seed(0)
    head = RepPointsHead(CLASSES, **arguments)
    pyramid = {f"P{i}": tf.random.normal((2, n, n + 3, 16), seed=i) for i, n in [(3, 7), (4, 4)]}
    head(pyramid)
    return head, pyramid


@pytest.mark.parametrize("head_layers", [0, 1])
def test_points_on_a_wider_grid_sample_like_a_dilated_convolution(head_layers):
    """Twice as far in y as in x, to test the order of axes and points."""
    head, pyramid = built_head(head_layers=head_layers)
    head.initial_points.kernel.assign(head.initial_points.kernel * 0)
    head.initial_points.bias.assign(TAPS * np.tile([2, 1], 9))
    raw = head(pyramid)
    expected = {"class_logits": [], "refined_points": []}
    for x in pyramid.values():
        for tower, kernel, dense in (
            (head.class_tower, head.class_kernel, head.class_logits),
            (head.point_tower, head.refining_kernel, head.refined_points),
        ):
            seen = x
            for layer in tower:
                seen = layer(seen)
            seen = tf.pad(seen, ((0, 0), (2, 2), (1, 1), (0, 0)))
            seen = tf.nn.relu(tf.nn.conv2d(seen, kernel.value, 1, "VALID", dilations=(2, 1)))
            expected[dense.name].append(tf.reshape(dense(seen), (2, -1, dense.units)))
    expected = {key: np.concatenate(values, 1) for key, values in expected.items()}
    expected["refined_points"] += TAPS * np.tile([2, 1], 9)
    assert np.abs(expected["class_logits"]).max() > 0.01
    for key, values in expected.items():
        np.testing.assert_allclose(raw[key], values, atol=1e-5)


def test_initial_points_start_on_a_grid_of_the_given_spread():
    head, pyramid = built_head(initial_spread=3.0)
    raw = head({level: x * 0 for level, x in pyramid.items()})
    x, y = np.asarray(raw["initial_points"])[1, 5].reshape(9, 2).T[::-1]
    assert list(x) == [-3, 0, 3] * 3 and list(y) == [-3] * 3 + [0] * 3 + [3] * 3
    half = 3 * (6 / 8) ** 0.5
    expected = np.broadcast_to([-half, -half, half, half], raw["initial_boxes"].shape)
    np.testing.assert_allclose(raw["initial_boxes"], expected, rtol=1e-5)


def gradients(output, weight):
    head, pyramid = built_head()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(head(pyramid)[output]))
    variable = weight(head).value
    return np.asarray(tape.gradient(loss, variable, unconnected_gradients="zero"))


@pytest.mark.parametrize("output", ["class_logits", "refined_points"])
def test_a_tenth_of_the_gradient_reaches_initial_points_through_sampling_positions(
    output, monkeypatch
):
    """And none of the gradient of the refined points."""

    def reaching():
        return gradients(output, lambda head: head.initial_points.bias)

    tenth = reaching()
    monkeypatch.setattr(reppoints_head, "OFFSET_GRADIENT", 1.0)
    whole = reaching()
    assert np.abs(whole).max() > 1e-5
    np.testing.assert_allclose(tenth, 0.1 * whole, rtol=1e-4)
    monkeypatch.setattr(reppoints_head, "OFFSET_GRADIENT", 0.0)
    assert not reaching().any()


@pytest.mark.parametrize("output", ["initial_boxes", "refined_boxes"])
def test_a_hundredth_of_the_gradient_reaches_the_moment_transfer(output, monkeypatch):
    def reaching():
        return gradients(output, lambda head: head.moment_transfer)

    hundredth = reaching()
    monkeypatch.setattr(reppoints_head, "MOMENT_GRADIENT", 1.0)
    whole = reaching()
    assert np.abs(whole).min() > 0
    np.testing.assert_allclose(hundredth, 0.01 * whole, rtol=1e-5)


def test_a_head_is_restored_from_its_configuration():
    head, _ = built_head(head_layers=2, use_group_norm=True, initial_spread=2.0)
    copy = RepPointsHead.from_config(head.get_config())
    copy.build({"P3": (None, None, None, 16)})
    assert copy.get_config() == head.get_config()
    assert [w.path for w in copy.weights] == [w.path for w in head.weights]


def test_detections_are_the_refined_boxes_in_pixels():
    model = small_detector("reppoints")
    raw = {key: np.asarray(value).copy() for key, value in model(scene()[0][:1]).items()}
    raw["class_logits"][:] = -9
    location = 8 * 12 + 3 * 6 + 2  # row 3, column 2 of P4
    raw["class_logits"][0, location, 1] = 2
    raw["refined_boxes"][0, location] = [-1.5, -0.5, 2, 0.25]
    found = model.decode(raw, [[64, 96]])
    assert int(found["num_detections"][0]) == 1 and int(found["labels"][0, 0]) == 1
    np.testing.assert_allclose(found["boxes"][0, 0], [32 - 24, 48 - 8, 32 + 32, 48 + 4])


def test_a_running_normalizer_is_rejected():
    with pytest.raises(ValueError, match="their own positives. Received: 'running'"):
        small_detector("reppoints", loss_normalizer="running")
