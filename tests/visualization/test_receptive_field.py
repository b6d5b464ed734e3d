"""The drawn points are those that DyHead reads, according to its gradients."""

import keras
import numpy as np
import pytest

from keras_dyhead.layers import SpatialAwareAttention
from keras_dyhead.layers.affine_maps import AffineMaps
from keras_dyhead.visualization.receptive_field import composed_points, points_of_block
from keras_dyhead.visualization.view import BlockView

SIZES = ((9, 7), (5, 4), (3, 2))
CELL = (2, 1)  # on the middle level


def block_of(offsets, masks, gates=None):
    names = [["mid", "low", "high"]] * len(masks)
    weights = gates or [dict.fromkeys(n, 1.0) for n in names]
    return BlockView({}, offsets, masks, weights)


def random_block():
    rng = np.random.default_rng(0)
    offsets = [rng.normal(0, 1.5, (*size, 9, 2)) for size in SIZES]
    return block_of(offsets, [rng.uniform(0, 1, (*size, 9)) for size in SIZES])


def spread(points, size):
    """The weight of each cell of a map in bilinear samples at the points."""
    rows, columns = (np.arange(n)[None] for n in size)
    y, x = points.positions.T[..., None]
    near_y, near_x = (np.maximum(1 - np.abs(a - b), 0) for a, b in ((y, rows), (x, columns)))
    return np.einsum("n,ny,nx->yx", points.weights, near_y, near_x)


def gradients(alignment, block):
    """The derivative of every branch of the middle level's cell with respect to all maps.

    The layer uses the block's offsets and masks instead of predicting them. Its kernels are all
    one, so a derivative is the sum of the bilinear weights times masks.
    """
    import tensorflow as tf

    layer = SpatialAwareAttention(1, alignment=alignment, groups=1)
    layer.build([(1, *size, 1) for size in SIZES])
    for kernel in layer.kernels.values():
        kernel.assign(np.ones(kernel.shape))
    logits = [np.log(mask / (1 - mask)) for mask in block.masks]
    fields = iter(
        keras.ops.convert_to_tensor(
            np.concatenate([o.reshape(1, -1, 18), m.reshape(1, -1, 9)], axis=-1), "float32"
        )
        for o, m in zip(block.offsets, logits, strict=True)
    )
    layer._fields = lambda level: next(fields)
    maps = [tf.zeros((1, *size, 1)) for size in SIZES]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(maps)
        values = {}
        for name, x in layer.sample(maps).items():
            one, zero = tf.ones_like(x.scale), tf.zeros_like(x.scale)
            branch = AffineMaps(x.values, one, zero, zero, x.sizes).compute()
            values[name] = branch[x.levels.index(1)][0, CELL[0], CELL[1], 0]
    return {
        name: tape.gradient(value, maps[level])[0, ..., 0].numpy()
        for (name, value), level in zip(values.items(), (1, 0, 2), strict=True)
    }


@pytest.mark.parametrize("alignment", ["paper", "published"])
def test_points_of_a_block_match_what_its_convolutions_read(alignment):
    """Except for the coarser map of the paper's alignment, which is resized first: see below."""
    block = random_block()
    expected = gradients(alignment, block)
    found = dict(points_of_block(block, alignment, 1, np.array([CELL]), np.ones(1)))
    assert len(found["mid"].weights) == len(found["low"].weights) == 9
    for name, points in found.items():
        shares = spread(points, SIZES[points.level])
        assert expected[name].max() > 0.1
        if (name, alignment) != ("high", "paper"):
            np.testing.assert_allclose(shares, expected[name], atol=1e-5)


def test_offsets_point_to_the_cells_read_on_the_coarser_level_in_the_papers_alignment():
    """Samples are mixtures of mixtures, with the total and center of the points.

    Linear interpolation keeps both. All taps are inside.
    """
    block = random_block()
    for offsets in block.offsets:
        offsets[:] = np.random.default_rng(1).uniform(0, 0.9, offsets.shape)
    expected = gradients("paper", block)["high"]
    points = dict(points_of_block(block, "paper", 1, np.array([CELL]), np.ones(1)))["high"]
    np.testing.assert_allclose(points.weights.sum(), expected.sum(), rtol=1e-5)
    center = np.einsum("yx,dyx->d", expected, np.indices(expected.shape)) / expected.sum()
    found = points.weights @ points.positions / points.weights.sum()
    np.testing.assert_allclose(found, center, atol=1e-5)


def test_blocks_compose_like_their_kernels():
    """Two regular 3x3 grids on one level give the kernel [1 2 3 2 1] in both directions."""
    block = block_of([np.zeros((9, 9, 9, 2))], [np.full((9, 9, 9), 0.5)], [{"mid": 1.0}])
    (points,) = composed_points([block, block], "paper", 0, (4, 4))
    expected = np.zeros((9, 9))
    expected[2:7, 2:7] = 0.25 * np.outer([1, 2, 3, 2, 1], [1, 2, 3, 2, 1])
    np.testing.assert_allclose(spread(points, (9, 9)), expected)


def test_one_composed_block_is_weighted_by_its_gates():
    """The weight of each branch is its gate over the number of branches."""
    block = random_block()
    block.weights[1] = {"mid": 0.5, "low": 0.75, "high": 1.0}
    alone = dict(points_of_block(block, "published", 1, np.array([CELL]), np.ones(1)))
    composed = composed_points([block], "published", 1, CELL)
    for name, level in (("low", 0), ("mid", 1), ("high", 2)):
        expected = block.weights[1][name] / 3 * spread(alone[name], SIZES[level])
        np.testing.assert_allclose(spread(composed[level], SIZES[level]), expected, atol=1e-12)


def test_levels_out_of_reach_have_no_points():
    block = random_block()
    low, mid, high = composed_points([block], "paper", 0, (0, 0))
    assert len(low.weights) and len(mid.weights) and not len(high.weights)
