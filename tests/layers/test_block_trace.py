"""Traces: all intermediate results of a block, in agreement with a call.

`tests/checkpoints/test_tower.py` compares them with those of the released code.
"""

import keras
import numpy as np
import pytest
from backend import relative_error, run

from keras_dyhead.layers import DyHeadBlock, DyHeadNeck

SIZES = ((11, 9), (6, 4), (3, 2))


def maps(channels=16):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(2, *size, channels)).astype("float32") for size in SIZES]


def moved(layer, pyramid):
    """The built layer, with all weights far from their initial values."""
    layer.build([x.shape for x in pyramid])
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        weight.assign(weight + rng.normal(0, 0.2, weight.shape))
    return layer


@pytest.mark.parametrize(
    ("alignment", "switched_on"), [("paper", True), ("published", True), ("paper", False)]
)
def test_a_trace_ends_with_the_outputs_of_a_call(alignment, switched_on):
    pyramid = maps()
    block = moved(DyHeadBlock(16, alignment, switched_on, switched_on, switched_on), pyramid)
    outputs = run(lambda *x: block.trace(x).outputs, *pyramid)
    for found, expected in zip(outputs, run(block, pyramid), strict=True):
        assert relative_error(found, expected) <= 1e-5


def test_weights_times_branches_are_the_map_after_scale_attention():
    pyramid = maps()
    block = moved(DyHeadBlock(16), pyramid)
    trace = run(lambda *x: block.trace(x)._asdict(), *pyramid)
    names = [["mid", "high"], ["mid", "low", "high"], ["mid", "low"]]
    for i, expected in enumerate(names):
        branches, weights = trace["branches"][i], trace["weights"][i]
        assert sorted(branches) == sorted(weights) == sorted(expected)
        assert all(((w >= 0.5) & (w <= 1)).all() for w in weights.values())
        mean = np.mean([branches[name] for name in expected], axis=0)
        weighed = [weights[name][:, None, None, None] * branches[name] for name in expected]
        assert relative_error(trace["spatial"][i], mean) <= 1e-6
        assert relative_error(trace["scale"][i], np.mean(weighed, axis=0)) <= 1e-6


def test_without_spatial_attention_the_grid_is_regular():
    pyramid = maps()
    block = moved(DyHeadBlock(16, use_spatial_attention=False), pyramid)
    trace = run(lambda *x: block.trace(x)._asdict(), *pyramid)
    for size, offsets, mask in zip(SIZES, trace["offsets"], trace["masks"], strict=True):
        assert offsets.shape == (2, *size, 9, 2) and not offsets.any()
        assert mask.shape == (2, *size, 9) and (mask == 1).all()


def test_a_neck_traces_its_blocks_in_sequence_after_the_projections():
    """The first trace starts from 16 channels, projected from 24. The last one ends like a call."""
    pyramid = dict(zip(("P3", "P4", "P5"), maps(24), strict=True))
    neck = DyHeadNeck(2, 16)
    neck.build({name: x.shape for name, x in pyramid.items()})
    rng = np.random.default_rng(1)
    for weight in neck.weights:
        weight.assign(weight + rng.normal(0, 0.2, weight.shape))

    def inputs_and_outputs(pyramid):
        return [(trace.inputs, trace.outputs) for trace in neck.trace(pyramid)]

    (first, middle), (again, last) = run(inputs_and_outputs, pyramid)
    assert [x.shape[-1] for x in first] == [16, 16, 16]
    for found, expected in zip(again, middle, strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(last, run(neck, pyramid).values(), strict=True):
        assert relative_error(found, expected) <= 1e-5


@pytest.mark.tensorflow
def test_half_precision_stays_close_to_single():
    pyramid = maps()
    block = moved(DyHeadBlock(16), pyramid)
    half = DyHeadBlock(16, dtype="mixed_bfloat16")
    half.build([x.shape for x in pyramid])
    half.set_weights(block.get_weights())
    assert half.compute_dtype == "bfloat16"
    rounded = [keras.ops.cast(x, "bfloat16") for x in pyramid]
    outputs = run(lambda *x: half.trace(x).outputs, *rounded)
    for found, expected in zip(outputs, run(block, pyramid), strict=True):
        assert relative_error(found, expected) <= 0.1
