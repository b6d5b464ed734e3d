"""Random sampling of positives and negatives."""

import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.detectors.sampling import RandomSampler


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
    with pytest.raises(ValueError, match="positive_fraction=1.5"):
        RandomSampler(16, 1.5)
