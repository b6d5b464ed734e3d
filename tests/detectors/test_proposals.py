"""ProposalSelector against a loop in NumPy, and random samples of positives and negatives."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.detectors.proposals import ProposalSelector, RandomSampler

COUNTS = [60, 20, 3]


def outputs(seed=0, batch=2):
    """Objectness over its whole range, and anchors, some of them outside the images."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 40, (batch, sum(COUNTS))).astype("float32")
    corner = rng.uniform(-40, 90, (sum(COUNTS), 2))
    anchors = np.concatenate([corner, corner + rng.uniform(5, 50, corner.shape)], -1)
    deltas = rng.normal(0, 0.3, (batch, sum(COUNTS), 4))
    return logits, deltas.astype("float32"), anchors.astype("float32")


def overlap(a, b):
    sides = np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]))
    return np.prod(sides) / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - np.prod(sides))


def loop(logits, deltas, anchors, size, most, places, threshold):
    """One image: (logit, box) pairs in the order of the proposals."""
    deltas, anchors = deltas.astype("float64"), anchors.astype("float64")
    sides = anchors[:, 2:] - anchors[:, :2]
    centers = anchors[:, :2] + sides / 2 + deltas[:, :2] * sides
    sides = sides * np.exp(deltas[:, 2:])
    boxes = np.concatenate([centers - sides / 2, centers + sides / 2], -1)
    boxes = np.clip(boxes, 0, [size[1], size[0]] * 2)
    found, start = [], 0
    for count in COUNTS:
        kept = []
        for i in start + np.argsort(-logits[start : start + count])[:most]:
            full = (boxes[i, 2:] > boxes[i, :2]).all()
            if full and not any(overlap(boxes[i], boxes[j]) > threshold for j in kept):
                kept.append(i)
        found += kept
        start += count
    return [(logits[i], boxes[i]) for i in sorted(found, key=lambda i: -logits[i])[:places]]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("places", [8, 100])
def test_proposals_equal_a_loop_over_levels_and_candidates(places, training):
    select = ProposalSelector(12, 30, places, 0.3)
    logits, deltas, anchors = outputs(places)
    sizes = np.array([[90, 80], [60, 70]])
    found = select(logits, deltas, anchors, COUNTS, sizes, training)
    boxes, scores, used = (np.asarray(x) for x in found)
    for i, size in enumerate(sizes):
        most = 30 if training else 12
        expected = loop(logits[i], deltas[i], anchors, size, most, places, 0.3)
        n = used[i].sum()
        assert n == len(expected) > 4 and not used[i, n:].any() and not boxes[i, n:].any()
        np.testing.assert_allclose(scores[i, :n], [logit for logit, _ in expected])
        np.testing.assert_allclose(boxes[i, :n], [box for _, box in expected], atol=1e-4)


def test_logits_of_any_size_keep_their_order():
    """In float32, sigmoids of large logits are all 1, and those of small ones 0."""
    logits = np.array([[200.0, 300.0, -400.0, -300.0]], "float32")
    anchors = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9], [60, 0, 69, 9]], "float32")
    found = ProposalSelector()(logits, np.zeros((1, 4, 4), "float32"), anchors, [4])
    np.testing.assert_array_equal(found.logits[0], [300, 200, -300, -400])
    assert np.asarray(found.found).all()


def test_graphs_of_dynamic_size_and_xla_select_the_same():
    select = ProposalSelector(15, 15, 20)
    logits, deltas, anchors = (tf.constant(x) for x in outputs())
    sizes = tf.constant([[90, 80], [60, 70]])
    expected = select(logits, deltas, anchors, COUNTS, sizes)
    compiled = tf.function(lambda *x: select(*x, COUNTS, sizes), jit_compile=True)
    traced = tf.function(
        lambda logits, deltas, anchors, n: select(
            logits, deltas, anchors, [n[0], n[1], n[2]], sizes
        ),
        input_signature=[
            tf.TensorSpec((None, None)),
            tf.TensorSpec((None, None, 4)),
            tf.TensorSpec((None, 4)),
            tf.TensorSpec((3,), tf.int32),
        ],
    )
    for found in (compiled(logits, deltas, anchors), traced(logits, deltas, anchors, COUNTS)):
        np.testing.assert_array_equal(found.found, expected.found)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-4)


def assignment(positives, negatives, ignored, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    one = [*range(positives), *[-1] * negatives, *[-2] * ignored]
    return np.stack([rng.permutation(one) for _ in range(batch)]).astype("int32")


def draw(sampler, assigned, seed=0):
    noise = np.random.default_rng(seed).uniform(size=assigned.shape).astype("float32")
    return [np.asarray(x) for x in sampler(assigned, noise)], noise


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [(10, 40, (4, 12)), (3, 40, (3, 13)), (0, 40, (0, 16)), (10, 5, (4, 5)), (0, 0, (0, 0))],
)
def test_positives_are_drawn_up_to_their_fraction_and_negatives_fill_up(
    positives, negatives, expected
):
    assigned = assignment(positives, negatives, ignored=20)
    (indices, positive, negative), _ = draw(RandomSampler(16, 0.25), assigned)
    assert indices.shape == (2, 16)
    for i in range(2):
        assert (positive[i].sum(), negative[i].sum()) == expected
        used = indices[i][positive[i] | negative[i]]
        assert len(set(used)) == len(used) == sum(expected)
        assert (assigned[i][indices[i][positive[i]]] >= 0).all()
        assert (assigned[i][indices[i][negative[i]]] == -1).all()
        assert not positive[i][expected[0] :].any()  # positives first


def test_the_largest_noise_is_drawn():
    assigned = assignment(10, 40, 20)
    (indices, positive, negative), noise = draw(RandomSampler(16, 0.25), assigned)
    for kind, drawn, count in ((assigned >= 0, positive, 4), (assigned == -1, negative, 12)):
        for i in range(2):
            eligible = np.flatnonzero(kind[i])
            best = eligible[np.argsort(-noise[i][eligible])][:count]
            assert set(indices[i][drawn[i]]) == set(best)


def test_every_positive_is_drawn_equally_often():
    assigned = np.repeat(assignment(6, 30, 4, batch=1), 600, axis=0)
    (indices, positive, _), _ = draw(RandomSampler(12, 0.25), assigned)
    counts = np.bincount(indices[positive], minlength=40)[assigned[0] >= 0]
    assert counts.sum() == 600 * 3 and np.abs(counts - 300).max() < 60  # 5 standard deviations


def test_fewer_anchors_than_samples_and_graphs_of_dynamic_size_work():
    assigned, sampler = assignment(2, 3, 1), RandomSampler(16, 0.5)
    (indices, positive, negative), noise = draw(sampler, assigned)
    assert indices.shape == (2, 6)
    assert positive.sum(1).tolist() == [2, 2] and negative.sum(1).tolist() == [3, 3]
    signature = [tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((None, None))]
    traced = tf.function(sampler, input_signature=signature)(assigned, noise)
    for ours, theirs in zip(traced, (indices, positive, negative), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_invalid_settings_are_in_the_message():
    with pytest.raises(ValueError, match="max_proposals=0"):
        dataclasses.replace(ProposalSelector(), max_proposals=0)
    with pytest.raises(ValueError, match="positive_fraction=1.5"):
        RandomSampler(16, 1.5)
