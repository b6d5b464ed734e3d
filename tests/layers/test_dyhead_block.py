"""DyHeadBlock against a float64 reference written from the paper's formulas; its options."""

import keras
import numpy as np
import pytest
from backend import relative_error, run
from numpy_reference import conv3x3, dyhead_block, group_norm, resize_align_corners

from keras_dyhead.layers import DyHeadBlock, spatial_attention
from keras_dyhead.ops import deform_conv
from keras_dyhead.ops.matmul_gather import matmul_gather
from keras_dyhead.ops.sampling_form import sampling_form

SIZES = ((11, 9), (6, 5), (3, 3))
SMALLER = pytest.mark.parametrize("sizes", [SIZES, ((11, 9), (5, 4), (2, 2))])


def random_block(sizes=SIZES, **kwargs):
    """A block with weights far from their initial values, also as float64 arrays, and a pyramid."""
    rng = np.random.default_rng(0)
    pyramid = [rng.normal(size=(2, *size, 16)) for size in sizes]
    block = DyHeadBlock(16, start="released", **kwargs)
    block.build([x.shape for x in pyramid])
    weights = {}
    for variable in block.weights:
        scale = 0.15 if "kernel" in variable.path else 0.3
        variable.assign(rng.normal("gamma" in variable.path, scale, variable.shape))
        name = variable.path.split(f"{block.name}/")[1]
        weights[name] = keras.ops.convert_to_numpy(variable).astype("float64")
    return block, weights, [x.astype("float32") for x in pyramid]


@SMALLER
def test_paper_alignment_follows_the_formulas(sizes):
    block, weights, pyramid = random_block(sizes, alignment="paper")
    expected = dyhead_block([x.astype("float64") for x in pyramid], weights)
    for found, wanted in zip(run(block, pyramid), expected, strict=True):
        assert relative_error(found, wanted) <= 1e-5


@pytest.mark.tensorflow
def test_many_channels_are_multiplied_before_they_are_sampled(monkeypatch):
    orders = []
    monkeypatch.setattr(
        deform_conv, "matmul_gather", lambda *x: orders.append("product") or matmul_gather(*x)
    )
    rng = np.random.default_rng(0)
    block = DyHeadBlock(spatial_attention.MULTIPLY_FIRST)
    pyramid = [rng.normal(size=(1, *size, block.channels)).astype("float32") for size in SIZES]
    block.build([x.shape for x in pyramid])
    offsets = block.spatial_attention.offset_conv.kernel
    offsets.assign(rng.normal(scale=0.2, size=offsets.shape))
    found = run(block, pyramid)
    assert orders == ["product"]
    with sampling_form("gather"):
        expected = run(block, pyramid)
    assert orders == ["product"]
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) <= 1e-5


def test_alignments_differ_only_where_there_is_a_coarser_level():
    paper, _, pyramid = random_block(alignment="paper")
    published, _, _ = random_block(alignment="published")
    outputs = zip(run(paper, pyramid), run(published, pyramid), strict=True)
    errors = [relative_error(a, b) for a, b in outputs]
    assert errors[0] > 0.01 and errors[1] > 0.01 and errors[2] <= 1e-6


@SMALLER
@pytest.mark.parametrize("alignment", ["paper", "published"])
def test_disabled_attentions_are_convolutions_a_plain_mean_and_relu(alignment, sizes):
    block, w, pyramid = random_block(
        sizes,
        alignment=alignment,
        use_spatial_attention=False,
        use_scale_attention=False,
        use_task_attention=False,
    )

    def branch(name, x, stride=1, size=(None, None)):
        kernel, bias = (w[f"spatial_attention/{name}_{n}"] for n in ("kernel", "bias"))
        norm = (w[f"spatial_attention/{name}_{n}"] for n in ("gamma", "beta"))
        sampled = conv3x3(x, kernel, bias)[:, ::stride, ::stride]
        return group_norm(sampled[:, : size[0], : size[1]], *norm)

    pyramid = [x.astype("float64") for x in pyramid]
    found = run(block, [x.astype("float32") for x in pyramid])
    for level, x in enumerate(pyramid):
        branches = [branch("mid", x)]
        if level > 0:
            branches.append(branch("low", pyramid[level - 1], 2, x.shape[1:3]))
        if level < len(pyramid) - 1 and alignment == "paper":
            branches.append(branch("high", resize_align_corners(pyramid[level + 1], x.shape[1:3])))
        elif level < len(pyramid) - 1:
            branches.append(resize_align_corners(branch("high", pyramid[level + 1]), x.shape[1:3]))
        expected = np.maximum(sum(branches) / len(branches), 0)
        assert relative_error(found[level], expected) <= 1e-5
    assert not any("gate" in v.path or "squeeze" in v.path for v in block.weights)


def test_a_new_block_samples_the_regular_grid_with_mask_one_half():
    """Offsets start at zero, so a new block is an ordinary convolution times one half."""
    keras.utils.set_random_seed(0)
    block = DyHeadBlock(16, use_bias=False, start="released")
    x = np.random.default_rng(0).normal(size=(1, 6, 7, 16)).astype("float32")
    found = run(block.spatial_attention, [x])[0]["mid"]
    kernel = keras.ops.convert_to_numpy(block.spatial_attention.kernels["mid"])
    expected = group_norm(conv3x3(x.astype("float64"), 0.5 * kernel, 0.0), 1.0, 0.0)
    assert relative_error(found, expected) <= 1e-5


def test_a_new_block_weights_every_level_by_two_thirds_where_the_gate_can_learn():
    """Between one half, where the ReLU is zero, and one, where the activation saturates."""
    attention = DyHeadBlock(16).scale_attention
    levels = [x.astype("float32") for x in np.random.default_rng(0).normal(size=(3, 8, 5, 7, 16))]
    run(attention, levels)
    found = keras.ops.convert_to_numpy(attention.gates(np.mean(levels, axis=(2, 3))))
    assert found.shape == (3, 8, 1) and np.abs(found - 2 / 3).max() < 0.05


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"channels": 24}, "channels=24"),
        ({"channels": 16, "alignment": "legacy"}, "alignment='legacy'"),
    ],
)
def test_errors_show_the_received_value(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DyHeadBlock(**kwargs)
