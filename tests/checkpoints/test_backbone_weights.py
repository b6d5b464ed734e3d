"""Backbone weights under every naming give the feature maps of their own libraries."""

import gzip
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from published_weights import generated_weight

from keras_dyhead.backbones import ResNetBackbone, SwinBackbone
from keras_dyhead.checkpoints import load_backbone_weights

DATA = Path(__file__).parent / "data"
NAMES = json.loads(gzip.decompress((DATA / "imagenet_names.json.gz").read_bytes()))
PUBLISHED_NAMES = json.loads(gzip.decompress((DATA / "tensor_names.json.gz").read_bytes()))
BACKBONES = {
    "torchvision/resnet18": lambda: ResNetBackbone(18),
    "torchvision/swin_t": lambda: SwinBackbone(),
    "timm/swin_tiny_patch4_window7_224": lambda: SwinBackbone(),
}
SIZES = {  # of the images, and the stored pixels of P3, P4, P5
    "torchvision/resnet18": ((65, 97), (1, 1, 1)),
    "torchvision/swin_t": ((256, 288), (8, 4, 2)),
    "timm/swin_tiny_patch4_window7_224": ((448, 448), (8, 4, 2)),
}


def generated(shapes):
    return {
        key: np.zeros(shape, "int64")
        if key.endswith(("num_batches_tracked", "relative_position_index"))
        else generated_weight(key, tuple(shape))
        for key, shape in shapes.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_maps_are_those_of_the_library_the_names_come_from(name):
    """Swin's output normalizations, which ImageNet weights lack, are those of a new model.

    The sizes are such that libraries and detectors agree on the windows: timm shifts before it
    pads, torchvision does not shift where the map is a single window.
    """
    backbone = load_backbone_weights(BACKBONES[name](), generated(NAMES[name]))
    reference = np.load(DATA / "imagenet_backbones.npz")
    size, steps = SIZES[name]
    images = np.random.default_rng(0).standard_normal((1, 3, *size)).astype("float32")
    maps = backbone(images.transpose(0, 2, 3, 1))
    for level, step in zip(("P3", "P4", "P5"), steps, strict=True):
        found = np.asarray(maps[level])[0, ::step, ::step, ::16]
        expected, std = reference[f"{name}/{level}"], reference[f"{name}/{level}/std"]
        assert np.abs(found - expected).max() <= 1e-4 * std, level


MICROSOFT = "backbone.backbone.bottom_up."


@pytest.mark.parametrize(
    ("name", "prefix", "make", "alone"),
    [
        ("dyhead_r50_atss_fpn_1x", MICROSOFT, lambda: ResNetBackbone(50, "caffe"), True),
        ("atss_r50_fpn_dyhead_1x_coco", "backbone.", lambda: ResNetBackbone(50), False),
        ("dyhead_swint_atss_fpn_2x_ms", MICROSOFT, SwinBackbone, False),
    ],
)
def test_the_backbone_loads_from_a_whole_detector(name, prefix, make, alone):
    """With a prefix and the rest of the detector, or `alone` under its own names."""
    state = {
        key.removeprefix(prefix) if alone else key: np.broadcast_to(np.float32(0.25), shape)
        for key, shape in PUBLISHED_NAMES[name].items()
        if not alone or key.startswith(prefix)
    }
    backbone = load_backbone_weights(make(), state)
    assert all(float(keras.ops.max(keras.ops.abs(w - 0.25))) == 0 for w in backbone.weights)


def small_swin(mmdet):
    """A quarter of Microsoft's Swin-T, or the same with mmdet's names and patch order."""
    state = {}
    for key, shape in PUBLISHED_NAMES["dyhead_swint_atss_fpn_2x_ms"].items():
        if not key.startswith(MICROSOFT) or "relative_position_index" in key:
            continue
        key = key.removeprefix(MICROSOFT)
        value = generated_weight(key, tuple(n // 4 if n % 96 == 0 else n for n in shape))
        if mmdet and "downsample" in key:  # (column, row, channel) -> (channel, row, column)
            blocks = value.reshape(*value.shape[:-1], 2, 2, -1)
            value = np.stack(
                [blocks[..., column, row, :] for row in (0, 1) for column in (0, 1)], axis=-1
            ).reshape(value.shape)
        for theirs, name in (
            ("layers.", "stages."),
            ("patch_embed.proj", "patch_embed.projection"),
            (".attn.", ".attn.w_msa."),
            ("mlp.fc1", "ffn.layers.0.0"),
            ("mlp.fc2", "ffn.layers.1"),
        ):
            key = key.replace(theirs, name) if mmdet else key
        state[key] = value
    return state


def test_mmdets_swin_is_microsofts_with_other_names_and_order():
    found, expected = (
        load_backbone_weights(SwinBackbone(embed_dim=24), small_swin(mmdet))
        for mmdet in (True, False)
    )
    for one, other in zip(found.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


@pytest.fixture(scope="module")
def resnet():
    return ResNetBackbone(18, base_channels=8)


def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded(resnet):
    before = [np.asarray(w) for w in resnet.weights]
    with pytest.raises(ValueError, match=r"conv1/kernel: expected shape \(7, 7, 3, 8\)"):
        load_backbone_weights(resnet, generated(NAMES["torchvision/resnet18"]))
    fits = {
        key: np.zeros([8 * size // 64 if size % 64 == 0 else size for size in shape], "float32")
        for key, shape in NAMES["torchvision/resnet18"].items()
    }
    with pytest.raises(
        ValueError, match=r"(?s)Problems: 1\b.*layer1.0.se.weight: the model has no"
    ):
        load_backbone_weights(resnet, fits | {"layer1.0.se.weight": np.zeros(3)})
    del fits["layer4.0.downsample.0.weight"]
    with pytest.raises(ValueError, match="no tensor layer4.0.downsample.0.weight in the state"):
        load_backbone_weights(resnet, fits)
    for old, new in zip(before, resnet.weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_unknown_names_and_other_backbones_are_refused(resnet):
    with pytest.raises(ValueError, match="names must be those of one backbone.*none of these"):
        load_backbone_weights(resnet, {"stem.0.weight": np.zeros(3)})
    twice = {f"{p}layer1.0.conv1.weight": np.zeros(3) for p in ("left.", "right.")}
    with pytest.raises(ValueError, match="left.layer1.*right.layer1"):
        load_backbone_weights(resnet, twice)
    with pytest.raises(ValueError, match="none of these"):
        load_backbone_weights(resnet, {"features.0.0.weight": np.zeros(3)})
    with pytest.raises(TypeError, match="a ResNetBackbone or a SwinBackbone"):
        load_backbone_weights(keras.Sequential(), {})
