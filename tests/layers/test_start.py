"""Initial weights of a block: near the identity by default, as released on request."""

import keras
import numpy as np
import pytest
from backend import relative_error, run, to_numpy

from keras_dyhead.layers import DyHeadBlock, DyHeadNeck, SpatialAwareAttention, TaskAwareAttention


def pyramid(channels=32):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(2, n, n, channels)).astype("float32") for n in (16, 8, 4)]


def similarity(outputs, inputs):
    """Mean cosine between the channels of each pixel before and after."""
    a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (outputs, inputs))
    return float(np.mean(np.sum(a * b, axis=-1)))


@pytest.mark.parametrize(("alignment", "use_bias"), [("paper", True), ("published", False)])
@pytest.mark.parametrize(("blocks", "at_least"), [(1, 0.9), (6, 0.55)])
def test_new_blocks_pass_the_pyramid_on(blocks, at_least, alignment, use_bias):
    """Each adds a little of its neighbors, which are independent of the level in this test."""
    keras.utils.set_random_seed(0)
    levels = pyramid()
    neck = DyHeadNeck(blocks, 32, alignment, use_bias=use_bias)
    for found, level in zip(run(neck, levels), levels, strict=True):
        assert similarity(found, level) > at_least


def test_six_released_blocks_do_not():
    keras.utils.set_random_seed(0)
    levels = pyramid()
    for found, level in zip(run(DyHeadNeck(6, 32, start="released"), levels), levels, strict=True):
        assert similarity(found, level) < 0.2


@pytest.mark.parametrize("switch", ["use_spatial_attention", "use_scale_attention"])
def test_a_disabled_attention_does_not_change_that(switch):
    keras.utils.set_random_seed(0)
    levels = pyramid()
    for found, level in zip(run(DyHeadNeck(1, 32, **{switch: False}), levels), levels, strict=True):
        assert similarity(found, level) > 0.9


def test_a_new_spatial_attention_alone_returns_its_level_and_small_neighbors():
    levels = pyramid()
    for level, branches in zip(levels, run(SpatialAwareAttention(32), levels), strict=True):
        mid = branches.pop("mid")
        assert similarity(mid, level) > 0.9 and branches
        assert np.std(mid) == pytest.approx(8, rel=0.01)
        for neighbor in branches.values():
            assert np.std(neighbor) == pytest.approx(0.3 * np.std(mid), rel=0.1)


def test_six_new_blocks_give_maps_as_large_as_a_pyramids():
    keras.utils.set_random_seed(0)
    for found in run(DyHeadNeck(6, 32), pyramid()):
        assert 1 < np.std(found) < 4


def test_offsets_move_no_further_in_a_step_than_with_the_released_start():
    """Adam moves all weights equally: dividing outputs by 8 makes up for maps 8 times as large."""
    levels = [8 * x for x in pyramid()]
    moved = []
    for start, factor in (("identity", 1.0), ("released", 0.125)):
        attention = SpatialAwareAttention(32, start=start)
        attention.build([x.shape for x in levels])
        attention.offset_conv.kernel.assign(np.full(attention.offset_conv.kernel.shape, 1e-3))
        moved.append(
            run(lambda *x, a=attention: a.offsets_and_masks(x)[0], *[factor * x for x in levels])
        )
    for identity, released in zip(*moved, strict=True):
        assert np.abs(identity).max() > 0
        np.testing.assert_array_equal(identity, released)


def test_a_new_task_attention_alone_is_nearly_linear():
    (x, *_) = pyramid()
    assert relative_error(run(TaskAwareAttention(), x), np.maximum(x, 0.9 * x)) < 0.01
    assert relative_error(run(TaskAwareAttention(start="released"), x), np.maximum(x, 0)) < 0.01


def test_more_or_fewer_output_channels_start_from_the_input_channels():
    levels = pyramid(16)
    mid = run(SpatialAwareAttention(32), levels)[0]["mid"]
    assert similarity(mid[..., :16], levels[0]) > 0.85
    levels = pyramid(48)
    mid = run(SpatialAwareAttention(32), levels)[0]["mid"]
    assert similarity(mid, levels[0][..., :32]) > 0.85


def test_the_released_start_is_a_random_kernel_and_unit_scales():
    block = DyHeadBlock(32, start="released")
    block.build([x.shape for x in pyramid()])
    attention = block.spatial_attention
    for branch in ("mid", "low", "high"):
        kernel = to_numpy(attention.kernels[branch])
        assert abs(kernel.mean()) < 1e-3 and np.abs(kernel).max() <= 1 / np.sqrt(9 * 32)
        assert (to_numpy(attention.gammas[branch]) == 1).all()
    assert not to_numpy(block.task_attention.excite.bias).any()


def test_another_start_is_refused():
    with pytest.raises(ValueError, match="start='zeros'"):
        DyHeadNeck(1, 16, start="zeros")
