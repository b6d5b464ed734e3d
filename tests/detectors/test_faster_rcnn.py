"""What only a two-stage detector has; test_detectors.py covers what all detectors share."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from detectors.scenes import CLASSES, assert_same, scene, small_backbone, small_detector

from keras_dyhead.detectors import FasterRCNN, RandomSampler
from keras_dyhead.detectors.two_stage_head import BoxHead
from keras_dyhead.layers import DyHeadNeck, TaskAwareAttention


def paths(model, part):
    return {w.path.split(f"{part}/", 1)[1] for w in model.weights if f"{part}/" in w.path}


def box_head_layers(model):
    return {path.split("/")[0] for path in paths(model, "box_head")}


def test_the_papers_arrangement_moves_task_aware_attention_after_pooling():
    """Figure 2(c): in place of each of the two fully connected layers."""
    predictions = {"class_logits", "box_deltas"}

    def small(neck, arrangement):
        return small_detector("faster-rcnn", head_layers=2, neck=neck, arrangement=arrangement)

    released = small(DyHeadNeck(1, 16), "released")
    assert box_head_layers(released) == {"fc1", "fc2"} | predictions
    paper = small("dyhead", "paper")
    assert paper.neck.use_spatial_attention and paper.neck.use_scale_attention
    assert not paper.neck.use_task_attention and paper.neck.channels == 16
    assert box_head_layers(paper) == {"task_attention1", "task_attention2"} | predictions
    plain = [small(None, a) for a in ("released", "paper")]
    assert paths(plain[0], "head") == paths(plain[1], "head")
    assert box_head_layers(plain[0]) == {"fc1", "fc2"} | predictions


def test_the_default_pyramid_goes_from_p2_to_a_pooled_p6():
    pyramid = FasterRCNN.default_pyramid(16)
    assert (pyramid.channels, pyramid.min_level, pyramid.max_level) == (16, 2, 6)
    assert pyramid.extra_levels == "pool"


def test_task_attention_in_the_box_head_treats_each_region_separately():
    regions = np.random.default_rng(0).normal(size=(2, 5, 3, 3, 16)).astype("float32")
    head = BoxHead(CLASSES, 1, hidden="task_attention")
    outputs = head(regions)
    assert outputs["class_logits"].shape == (2, 5, CLASSES + 1)
    assert outputs["box_deltas"].shape == (2, 5, CLASSES, 4)
    (attention,) = (x for x in head.hidden_layers if isinstance(x, TaskAwareAttention))
    attended = np.asarray(attention(regions[1, 3][None])).reshape(1, -1)
    np.testing.assert_allclose(
        outputs["class_logits"][1, 3], head.class_logits(attended)[0], atol=1e-6
    )


@pytest.mark.slow
def test_the_papers_arrangement_trains_and_is_saved(tmp_path):
    images, targets = scene()
    neck = DyHeadNeck(1, 16, use_task_attention=False)
    model = small_detector("faster-rcnn", neck=neck, arrangement="paper")
    model.compile(keras.optimizers.Adam(5e-3), run_eagerly=True)
    history = model.fit(images, targets, epochs=6, verbose=0).history
    for name in ("class_loss", "objectness_loss"):
        assert history[name][-1] < 0.95 * history[name][0]
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    assert restored.arrangement == "paper"
    assert_same(restored.decode(restored(images)), model.decode(model(images)))


def losses_of(model, images, targets):
    boxes, labels = tf.constant(targets["boxes"]), tf.constant(targets["labels"])
    return {k: float(v) for k, v in model.compute_losses(model(images), boxes, labels).items()}


def test_anchors_and_regions_are_resampled_in_every_step():
    few = RandomSampler(8, 0.5)
    model = small_detector("faster-rcnn", sampler=few, region_sampler=few)
    drawn = [losses_of(model, *scene()) for _ in range(3)]
    everything = small_detector("faster-rcnn")
    fixed = [losses_of(everything, *scene()) for _ in range(2)]
    for name in ("objectness_loss", "class_loss"):
        assert len({losses[name] for losses in drawn}) == 3
        np.testing.assert_allclose(fixed[1][name], fixed[0][name], rtol=1e-6)


def test_no_gradient_flows_from_the_second_stage_through_proposals():
    images, targets = scene()
    model = small_detector("faster-rcnn")
    boxes, labels = tf.constant(targets["boxes"]), tf.constant(targets["labels"])
    with tf.GradientTape() as tape:
        raw = model(images, training=True)
        proposals = model.propose(raw)
        count = boxes.shape[1] + proposals.boxes.shape[1]
        losses = model.region_losses(raw, proposals, boxes, labels, tf.ones((2, count)))
        total = sum(losses.values())
    weights = {w.path: w.value for w in model.trainable_weights}
    gradients = tape.gradient(total, weights)
    assert all((gradients[path] is None) == ("/rpn/" in path) for path in weights)


def test_regions_are_clipped_to_the_images_without_padding():
    images, _ = scene()
    model = small_detector("faster-rcnn")
    raw = model(images)
    sizes = np.array([[40, 90], [64, 20]])
    found = model.propose(raw, sizes)
    for i, (height, width) in enumerate(sizes):
        boxes = np.asarray(found.boxes[i])[np.asarray(found.found[i])]
        np.testing.assert_array_equal(boxes[:, 2:].max(axis=0), [width, height])
        assert boxes.min() == 0 and (boxes[:, 2:] > boxes[:, :2]).all()
    unclipped = np.asarray(model.propose(raw).boxes)
    assert unclipped.min() < 0 and unclipped[..., 3].max() > 64


def test_objects_without_area_keep_losses_finite():
    """If it were a region itself, such an object would have NaN deltas."""
    images, targets = scene()
    model = small_detector("faster-rcnn")
    labels = targets["labels"].copy()
    labels[:, 2] = 1  # their boxes are zeros
    with tf.GradientTape() as tape:
        found = model.compute_losses(model(images), tf.constant(targets["boxes"]), labels)
        total = sum(found.values())
    for name, expected in losses_of(model, images, targets).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)
    gradients = tape.gradient(total, [w.value for w in model.trainable_weights])
    assert all(np.isfinite(tf.convert_to_tensor(gradient)).all() for gradient in gradients)


def test_a_step_uses_the_number_of_training_candidates():
    images, targets = scene()
    model = small_detector("faster-rcnn")
    model.proposals = dataclasses.replace(
        model.proposals, max_candidates=2, training_candidates=50, max_proposals=60
    )
    raw = model(images)
    sizes = [[64, 96]] * 2
    used = [int(np.sum(model.propose(raw, sizes, training=t).found)) for t in (False, True)]
    assert used[0] <= 2 * 2 * 4 < used[1]


def test_impossible_arrangements_are_rejected():
    with pytest.raises(ValueError, match="Received: use_task_attention=True"):
        small_detector("faster-rcnn", 1, arrangement="paper")
    with pytest.raises(ValueError, match="'both'"):
        FasterRCNN(small_backbone(), CLASSES, arrangement="both")
    with pytest.raises(ValueError, match="'conv'"):
        BoxHead(CLASSES, hidden="conv")
