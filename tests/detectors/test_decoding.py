"""DetectionDecoder against a loop in NumPy."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.detectors.decoding import DetectionDecoder

COUNTS, CLASSES = [60, 20, 3], 4


def outputs(seed, batch=2):
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, (batch, sum(COUNTS), CLASSES)).astype("float32")
    corner = rng.uniform(-30, 70, (batch, sum(COUNTS), 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 50, corner.shape)], -1)
    return logits, boxes.astype("float32")


def clip(box, size):
    return np.clip(box, 0, [size[1], size[0], size[1], size[0]])


def overlap(a, b):
    sides = np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]))
    return np.prod(sides) / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - np.prod(sides))


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype("float64")))


def loop(decoder, logits, boxes, size, centerness_logits=None, counts=COUNTS):
    """One image: (score, label, box) triples in the order of the detections."""
    probability, centerness = sigmoid(logits), np.ones(len(boxes))
    if centerness_logits is not None:
        centerness = sigmoid(centerness_logits)
    candidates, start = [], 0
    for count in counts:
        level = probability[start : start + count]
        rank = np.where(level > decoder.score_threshold, level, 0)
        if decoder.rank_by == "confidence":
            rank = rank * centerness[start : start + count, None]
        for flat in np.argsort(-rank, axis=None)[: decoder.max_candidates]:
            anchor, label = divmod(int(flat), CLASSES)
            box = boxes[start + anchor].astype("float64")
            if decoder.clip == "before_nms":
                box = clip(box, size)
            if rank[anchor, label] > 0 and (box[2:] > box[:2]).all():
                candidates.append((level[anchor, label] * centerness[start + anchor], label, box))
        start += count
    kept = []
    for score, label, box in sorted(candidates, key=lambda c: -c[0]):
        if len(kept) < decoder.max_detections and not any(
            label == other[1] and overlap(box, other[2]) > decoder.iou_threshold for other in kept
        ):
            kept.append((score, label, box))
    kept = [(score, label, clip(box, size)) for score, label, box in kept]
    return [k for k in kept if (k[2][2:] > k[2][:2]).all()]


def assert_equals_loop(decoder, logits, boxes, centerness=None):
    sizes = np.array([[90, 80], [60, 70]])
    out = decoder(logits, boxes, COUNTS, sizes, centerness)
    out = {k: np.asarray(v) for k, v in out.items()}
    for i, size in enumerate(sizes):
        expected = loop(
            decoder, logits[i], boxes[i], size, None if centerness is None else centerness[i]
        )
        n = out["num_detections"][i]
        assert n == len(expected) > 0
        np.testing.assert_allclose(out["confidence"][i, :n], [e[0] for e in expected], rtol=1e-5)
        np.testing.assert_array_equal(out["labels"][i, :n], [e[1] for e in expected])
        np.testing.assert_allclose(out["boxes"][i, :n], [e[2] for e in expected], atol=1e-4)
        assert (out["labels"][i, n:] == -1).all()
        assert not out["boxes"][i, n:].any() and not out["confidence"][i, n:].any()
    return out


@pytest.mark.parametrize("places", [10, 100])
@pytest.mark.parametrize("clipping", ["before_nms", "after_nms"])
def test_detections_equal_a_loop_over_levels_and_candidates(clipping, places):
    decoder = DetectionDecoder(0.2, 0.4, 40, places, clip=clipping)
    assert_equals_loop(decoder, *outputs(seed=places))


def test_centerness_weights_confidence_and_optionally_ranks_candidates():
    """The two rankings keep different candidates; the threshold ignores centerness."""
    logits, boxes = outputs(seed=7)
    centerness = np.random.default_rng(7).normal(0, 2, boxes.shape[:2]).astype("float32")
    found = [
        assert_equals_loop(
            DetectionDecoder(0.3, 0.4, 12, rank_by=rank_by), logits, boxes, centerness
        )
        for rank_by in ("class", "confidence")
    ]
    assert not np.array_equal(found[0]["labels"], found[1]["labels"])
    assert 0 < found[0]["confidence"][found[0]["confidence"] > 0].min() < 0.3


def test_with_clipping_after_nms_boxes_outside_the_image_count():
    """If the only detection lies outside, detectron2's published models return nothing."""
    logits = np.array([[[3.0], [2.0]]], "float32")
    boxes = np.array([[[50, 50, 60, 60], [0, 0, 10, 10]]], "float32")
    before = DetectionDecoder(max_detections=1)
    after = dataclasses.replace(before, clip="after_nms")
    assert int(before(logits, boxes, [2], [[20, 20]])["num_detections"][0]) == 1
    assert int(after(logits, boxes, [2], [[20, 20]])["num_detections"][0]) == 0


def test_dynamic_level_counts_and_xla_give_the_same_detections():
    decoder = DetectionDecoder(max_candidates=50)
    logits, boxes = (tf.constant(x) for x in outputs(seed=1))
    expected = decoder(logits, boxes, COUNTS)
    traced = tf.function(lambda x, b, n: decoder(x, b, [n[0], n[1], n[2]])).get_concrete_function(
        tf.TensorSpec((None, None, CLASSES)),
        tf.TensorSpec((None, None, 4)),
        tf.TensorSpec((3,), tf.int32),
    )
    compiled = tf.function(lambda x, b: decoder(x, b, COUNTS), jit_compile=True)
    for out in (traced(logits, boxes, tf.constant(COUNTS)), compiled(logits, boxes)):
        np.testing.assert_array_equal(out["labels"], expected["labels"])
        np.testing.assert_allclose(out["boxes"], expected["boxes"], atol=1e-5)


def test_settings_survive_serialization_and_invalid_ones_are_in_the_message():
    decoder = DetectionDecoder(score_threshold=0.3, clip="after_nms")
    config = keras.saving.serialize_keras_object(decoder)
    assert keras.saving.deserialize_keras_object(config) == decoder
    with pytest.raises(ValueError, match="'never'"):
        DetectionDecoder(clip="never")
    with pytest.raises(ValueError, match="'size'"):
        DetectionDecoder(rank_by="size")
    for name in ("score_threshold", "iou_threshold"):
        for value in (1.5, -0.1, float("nan"), None):
            with pytest.raises(ValueError, match=f"`{name}` must be from 0 to 1.*{value}"):
                DetectionDecoder(**{name: value})
    for name in ("max_candidates", "max_detections"):
        for value in (0, 1.5, "9", None):
            with pytest.raises(ValueError, match=f"`{name}` must be an int of at least 1.*{value}"):
                DetectionDecoder(**{name: value})


@pytest.mark.parametrize("clipping", ["before_nms", "after_nms"])
def test_boxes_of_each_class_are_decoded_like_separate_anchors(clipping):
    """Two stages: one box per region and class, probabilities instead of logits, no levels."""
    rng = np.random.default_rng(3)
    logits = rng.normal(-1, 2, (2, 30, CLASSES)).astype("float32")
    corner = rng.uniform(-30, 70, (2, 30, CLASSES, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 50, corner.shape)], -1)
    boxes, sizes = boxes.astype("float32"), np.array([[90, 80], [60, 70]])
    decoder = DetectionDecoder(0.2, 0.4, clip=clipping)
    found = decoder.from_probabilities(keras.ops.sigmoid(logits), boxes, sizes)
    # Equivalent to anchors that are candidates for only one class.
    alone = np.where(np.eye(CLASSES, dtype=bool), logits[:, :, None], -30).astype("float32")
    flat = (alone.reshape(2, -1, CLASSES), boxes.reshape(2, -1, 4))
    for i, size in enumerate(sizes):
        expected = loop(decoder, flat[0][i], flat[1][i], size, counts=[30 * CLASSES])
        n = int(found["num_detections"][i])
        assert n == len(expected) > 10
        np.testing.assert_array_equal(found["labels"][i, :n], [e[1] for e in expected])
        np.testing.assert_allclose(found["boxes"][i, :n], [e[2] for e in expected], atol=1e-4)
        np.testing.assert_allclose(found["confidence"][i, :n], [e[0] for e in expected], rtol=1e-5)
