"""Losses and centerness against their formulas or known values."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.detectors.losses import (
    centerness_of,
    giou_loss,
    iou_loss,
    sigmoid_focal_loss,
    smooth_l1_loss,
)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 0.0), (0.25, 1.5)])
def test_focal_loss_follows_equation_5(alpha, gamma):
    logits = np.linspace(-15, 15, 61)
    p = 1 / (1 + np.exp(-logits))
    ones = -alpha * (1 - p) ** gamma * np.log(p)
    zeros = -(1 - alpha) * p**gamma * np.log1p(-p)
    for target, expected in [(1, ones), (0, zeros)]:
        out = sigmoid_focal_loss(np.full_like(logits, target), logits, alpha, gamma)
        np.testing.assert_allclose(out, expected, rtol=2e-5)


def test_focal_loss_keeps_the_gradient_of_a_confident_mistake():
    """At a logit of -60, a one has the gradient -alpha; with clipped probabilities it is 0."""
    logits = tf.constant([-60.0, 60.0, -1e4, 1e4])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = sigmoid_focal_loss([1.0, 0.0, 1.0, 0.0], logits)
    np.testing.assert_allclose(tape.gradient(loss, logits), [-0.25, 0.75, -0.25, 0.75], rtol=1e-6)


def test_smooth_l1_is_l1_at_beta_0_and_scaled_huber_otherwise():
    rng = np.random.default_rng(0)
    targets, predictions = rng.normal(size=(2, 50)).astype("float32")
    np.testing.assert_allclose(
        smooth_l1_loss(targets, predictions), np.abs(targets - predictions), rtol=1e-6
    )
    huber = [
        keras.losses.huber([t], [p], delta=0.3) / 0.3
        for t, p in zip(targets, predictions, strict=True)
    ]
    np.testing.assert_allclose(smooth_l1_loss(targets, predictions, 0.3), huber, rtol=1e-5)


def test_box_losses_at_known_overlaps():
    """Shifted by half a side: an IoU of 1/3; along the diagonal 1/7, and 8/36 of the hull empty."""
    box = np.array([0, 0, 4, 4], "float32")
    shifted = np.array([[0, 0, 4, 4], [2, 0, 6, 4], [9, 9, 9, 9]], "float32")
    np.testing.assert_allclose(iou_loss(box, shifted), -np.log([1, 1 / 3, 1e-6]), rtol=1e-6)
    diagonal = np.array([[2, 2, 6, 6]], "float32")
    expected = 1 - (4 / 28 - (36 - 28) / 36)
    np.testing.assert_allclose(giou_loss(box, diagonal), [expected], rtol=1e-6)


def test_centerness_is_one_at_the_center_and_zero_at_or_outside_the_border():
    boxes = np.array([[0, 0, 8, 4]] * 4, "float32")
    points = np.array([[4, 2], [2, 2], [8, 2], [-3, 2]], "float32")
    np.testing.assert_allclose(centerness_of(points, boxes), [1, (2 / 6) ** 0.5, 0, 0], rtol=1e-6)
