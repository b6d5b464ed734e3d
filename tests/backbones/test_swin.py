"""Swin's layers against their definition in float64, and the contract of SwinBackbone."""

import math

import keras
import numpy as np
import pytest

from keras_dyhead.backbones import SwinBackbone
from keras_dyhead.backbones.swin_layers import PatchEmbedding, PatchMerging, SwinBlock


def tiny(**arguments):
    arguments = {"depths": (1, 2, 2, 1), "drop_path_rate": 0.0} | arguments
    return SwinBackbone(16, num_heads=(1, 2, 2, 4), window_size=3, **arguments)


def randomize(layer, seed=0):
    """Gives every weight of a built layer values unlike any initializer; returns them by path."""
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        weight.assign(rng.normal(0.1, 0.5, weight.shape))
    return {w.path.split("/", 1)[-1]: np.asarray(w, "float64") for w in layer.weights}


def normalize(x, weights, name):
    centered = x - x.mean(-1, keepdims=True)
    x = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
    return x * weights[f"{name}/gamma"] + weights[f"{name}/beta"]


def block_by_definition(x, weights, heads, window, shift):
    """Every pixel attends to all others, those outside its window with weight zero."""

    def dense(x, name):
        return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    height, width, channels = x.shape
    padding = [(0, -height % window), (0, -width % window), (0, 0)]
    padded = np.pad(normalize(x, weights, "norm1"), padding)
    places = np.stack(np.indices(padded.shape[:2]), -1).reshape(-1, 2)
    rolled = (places - shift) % padded.shape[:2]
    same_window = (rolled[:, None] // window == rolled // window).all(-1)
    # Rolling moves pixels of opposite edges next to each other and changes their distance.
    torn = (places[:, None] - places != rolled[:, None] - rolled).any(-1)
    offset = np.where(same_window[..., None], rolled[:, None] - rolled + window - 1, 0)
    table = weights["attn/relative_position_bias_table"]
    bias = table[offset[..., 0] * (2 * window - 1) + offset[..., 1]]

    qkv = dense(padded.reshape(-1, channels), "attn/qkv").reshape(-1, 3, heads, channels // heads)
    out = np.zeros((len(places), heads, channels // heads))
    for head in range(heads):
        query, key, value = qkv[:, :, head].swapaxes(0, 1)
        logits = query @ key.T / math.sqrt(channels // heads) + bias[..., head] - 100.0 * torn
        logits = np.where(same_window, logits, -np.inf)
        attention = np.exp(logits - logits.max(1, keepdims=True))
        out[:, head] = attention / attention.sum(1, keepdims=True) @ value
    out = dense(out.reshape(-1, channels), "attn/proj").reshape(padded.shape)
    x = x + out[:height, :width]
    hidden = dense(normalize(x, weights, "norm2"), "fc1")
    hidden *= (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
    return x + dense(hidden, "fc2")


@pytest.mark.parametrize(
    ("size", "window", "shift"),
    [((9, 10), 4, 0), ((9, 10), 4, 2), ((6, 9), 3, 1), ((5, 6), 7, 3), ((12, 13), 12, 6)],
)
def test_a_block_is_masked_window_attention_on_sizes_that_need_padding(size, window, shift):
    block = SwinBlock(num_heads=2, window_size=window, shift=shift)
    block.build((None, None, None, 8))
    weights = randomize(block)
    x = np.random.default_rng(1).standard_normal((2, *size, 8)).astype("float32")
    expected = [
        block_by_definition(image.astype("float64"), weights, 2, window, shift) for image in x
    ]
    np.testing.assert_allclose(block(x), expected, rtol=1e-4, atol=1e-4)


def test_patch_merging_pads_odd_sizes_and_orders_pixels_by_column_then_row():
    layer = PatchMerging()
    layer.build((None, None, None, 2))
    weights = randomize(layer)
    x = np.random.default_rng(1).standard_normal((5, 4, 2))
    padded = np.pad(x, ((0, 1), (0, 0), (0, 0)))
    features = np.zeros((3, 2, 8))
    for row, column, channel in np.ndindex(2, 2, 2):
        features[..., (2 * column + row) * 2 + channel] = padded[row::2, column::2, channel]
    expected = normalize(features, weights, "norm") @ weights["reduction/kernel"]
    np.testing.assert_allclose(layer(x[None])[0], expected, rtol=1e-4, atol=1e-4)


def test_patch_embedding_pads_the_image_to_whole_patches():
    layer = PatchEmbedding(6)
    layer.build((None, None, None, 3))
    weights = randomize(layer)
    x = np.random.default_rng(1).standard_normal((5, 9, 3))
    padded = np.pad(x, ((0, 3), (0, 3), (0, 0)))
    expected = np.zeros((2, 3, 6)) + weights["proj/bias"]
    for row, column in np.ndindex(4, 4):
        expected += padded[row::4, column::4] @ weights["proj/kernel"][row, column]
    expected = normalize(expected, weights, "norm")
    np.testing.assert_allclose(layer(x[None])[0], expected, rtol=1e-4, atol=1e-4)


def test_sizes_halve_by_rounding_up_and_known_sizes_change_nothing():
    x = np.random.default_rng(0).standard_normal((1, 50, 71, 3)).astype("float32")
    backbone = tiny()
    maps = backbone(x)
    shapes = {level: tuple(m.shape) for level, m in maps.items()}
    assert shapes == {"P3": (1, 7, 9, 32), "P4": (1, 4, 5, 64), "P5": (1, 2, 3, 128)}
    fixed = tiny(image_shape=(50, 71, 3))
    fixed.set_weights(backbone.get_weights())
    assert {k: tuple(m.shape[1:]) for k, m in fixed.pyramid_outputs.items()} == {
        k: s[1:] for k, s in shapes.items()
    }
    predicted = backbone.predict(x, verbose=0)
    for level, expected in fixed(x).items():
        np.testing.assert_allclose(maps[level], expected, atol=1e-4)
        np.testing.assert_allclose(predicted[level], expected, atol=1e-4)


def test_a_saved_backbone_gives_the_same_maps(tmp_path):
    backbone = tiny(min_level=2, drop_path_rate=0.1, name="swin")
    randomize(backbone)
    backbone.save(tmp_path / "swin.keras")
    restored = keras.saving.load_model(tmp_path / "swin.keras")
    assert restored.get_config() == backbone.get_config()
    x = np.random.default_rng(0).standard_normal((1, 32, 40, 3)).astype("float32")
    restored_maps = restored(x)
    assert list(restored_maps) == ["P2", "P3", "P4", "P5"]
    for level, expected in backbone(x).items():
        np.testing.assert_array_equal(restored_maps[level], expected)


def test_residual_branches_are_skipped_image_by_image_in_training_only():
    block = SwinBlock(num_heads=1, window_size=3, drop_path=0.5)
    block.build((None, None, None, 4))
    weights = randomize(block)
    block.fc2.kernel.assign(np.zeros((16, 4)))  # leaves only the attention branch
    block.fc2.bias.assign(np.zeros(4))
    x = np.tile(np.random.default_rng(1).standard_normal((1, 3, 3, 4)), (64, 1, 1, 1)).astype("f")
    weights |= {"fc2/kernel": np.zeros((16, 4)), "fc2/bias": np.zeros(4)}
    branch = block_by_definition(x[0].astype("float64"), weights, 1, 3, 0) - x[0]
    np.testing.assert_allclose(block(x, training=False) - x, [branch] * 64, atol=1e-4)
    out = np.asarray(block(x, training=True)) - x
    skipped = np.abs(out).max((1, 2, 3)) == 0
    assert 15 < skipped.sum() < 49
    np.testing.assert_allclose(out[~skipped], [2 * branch] * (~skipped).sum(), atol=1e-4)


def test_drop_path_grows_linearly_over_the_blocks():
    backbone = SwinBackbone(8, (1, 1, 2, 1), (1, 1, 1, 1), window_size=2, drop_path_rate=0.4)
    rates = [layer.drop_path for layer in backbone.layers if isinstance(layer, SwinBlock)]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4])
    shifts = [layer.shift for layer in backbone.layers if isinstance(layer, SwinBlock)]
    assert shifts == [0, 0, 0, 1, 0]


def test_mixed_precision_stays_close_to_float32():
    x = np.random.default_rng(0).standard_normal((1, 40, 40, 3)).astype("float32")
    backbone, half = tiny(), tiny(dtype="mixed_bfloat16")
    half.set_weights(backbone.get_weights())
    for level, m in half(x).items():
        assert keras.backend.standardize_dtype(m.dtype) == "bfloat16"
        np.testing.assert_allclose(keras.ops.cast(m, "float32"), backbone(x)[level], atol=0.15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depths": (2, 2, 6)}, r"\(2, 2, 6\)"),
        ({"min_level": 6}, "Received: min_level=6"),
        ({"embed_dim": 20}, "num_heads=3"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SwinBackbone(**arguments)
