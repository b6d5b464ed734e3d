"""ResNet with deformable stages: which convolutions deform, what they compute and train."""

import keras
import numpy as np
import numpy_reference as reference
import pytest
import tensorflow as tf

from keras_dyhead.backbones import ResNetBackbone
from keras_dyhead.backbones.resnet_layers import GroupedConv2D
from keras_dyhead.layers.modulated_deform_conv2d import ModulatedDeformConv2D


def tiny(**arguments):
    return ResNetBackbone(50, base_channels=8, **arguments)


def image(height=50, width=71):
    return np.random.default_rng(0).standard_normal((1, height, width, 3)).astype("float32")


def shake(model, scale=0.2):
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if weight.path.endswith("moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        else:
            weight.assign(weight + rng.normal(0, scale, weight.shape))


def deformable(backbone):
    return [x.name for x in backbone.layers if isinstance(x, ModulatedDeformConv2D)]


def test_every_3x3_convolution_of_the_stages_deforms_including_strided_ones():
    """Stage 3 is `layer2` with four blocks, stage 5 `layer4` with three."""
    backbone = tiny(deformable_stages=(3, 5))
    expected = {2: 4, 4: 3}
    names = [f"layer{layer}_{n}_conv2" for layer, count in expected.items() for n in range(count)]
    assert deformable(backbone) == names
    assert backbone.get_layer("layer2_0_conv2").strides == (2, 2)
    assert deformable(tiny()) == []


@pytest.mark.parametrize(("strides", "groups"), [(1, 1), (2, 4)])
def test_a_new_convolution_is_an_ordinary_one_times_a_mask_of_one_half(strides, groups):
    x = image(9, 14)[..., :1] * np.ones(8, "float32")
    layer = ModulatedDeformConv2D(12, strides=strides, groups=groups, use_bias=False)
    out = layer(x)
    plain = GroupedConv2D(12, 3, strides, "valid", groups=groups, use_bias=False)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    plain.build(padded.shape)
    plain.kernel.assign(layer.kernel)
    np.testing.assert_allclose(out, 0.5 * plain(padded), atol=1e-6)


def test_a_grouped_strided_bottleneck_is_that_of_the_formulas():
    """The first block of a stage against float64 loops; offsets of several pixels."""
    backbone = tiny(groups=2, width_per_group=32, deformable_stages=(3,))
    shake(backbone)
    block = keras.Model(
        backbone.get_layer("layer1_2_relu").output, backbone.get_layer("layer2_0_relu").output
    )
    x = np.random.default_rng(2).standard_normal((1, 7, 6, 32))
    w = {v.path: np.asarray(v, "float64") for layer in block.layers for v in layer.weights}

    def norm(x, name):
        gamma, beta, mean, variance = (
            w[f"layer2_0_{name}/{n}"] for n in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    y = np.maximum(norm(x @ w["layer2_0_conv1/kernel"][0, 0], "bn1"), 0)
    offset_conv = (w[f"layer2_0_conv2/offset_conv/{n}"] for n in ("kernel", "bias"))
    fields = reference.conv3x3(y, *offset_conv)[:, ::2, ::2]
    offsets, mask = fields[..., :18], reference.sigmoid(fields[..., 18:])
    assert 1 < np.abs(offsets).mean() < 4
    kernel = w["layer2_0_conv2/kernel"]
    assert kernel.shape == (3, 3, 8, 16)
    halves = [
        reference.deform_conv2d(part, offsets, mask, kernel[..., columns], stride=2)
        for part, columns in ((y[..., :8], slice(8)), (y[..., 8:], slice(8, None)))
    ]
    y = np.maximum(norm(np.concatenate(halves, axis=-1), "bn2"), 0)
    y = norm(y @ w["layer2_0_conv3/kernel"][0, 0], "bn3")
    shortcut = x[:, ::2, ::2] @ w["layer2_0_downsample_conv/kernel"][0, 0]
    expected = np.maximum(y + norm(shortcut, "downsample_bn"), 0)
    found = block(x.astype("float32"))
    assert found.shape == (1, 4, 3, 64)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_known_and_unknown_sizes_and_a_saved_backbone_give_the_same_maps(tmp_path):
    arguments = {"groups": 2, "width_per_group": 32, "deformable_stages": (5,), "frozen_stages": 1}
    backbone = tiny(**arguments)
    shake(backbone, 0.05)
    expected = backbone(image())
    backbone.save(tmp_path / "resnet.keras")
    restored = keras.saving.load_model(tmp_path / "resnet.keras")
    assert restored.get_config() == backbone.get_config()
    assert restored.deformable_stages == (5,)
    fixed = tiny(**arguments, image_shape=(50, 71, 3))
    fixed.set_weights(backbone.get_weights())
    for maps in (restored(image()), fixed(image()), backbone.predict(image(), verbose=0)):
        for level, values in expected.items():
            np.testing.assert_allclose(maps[level], values, atol=1e-5 * np.abs(values).max())


def test_gradients_reach_the_offset_convolutions_from_their_start_at_zero():
    backbone = tiny(deformable_stages=(5,))
    layers = [backbone.get_layer(name) for name in deformable(backbone)]
    weights = [weight.value for layer in layers for weight in layer.offset_conv.weights]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(backbone(image())["P5"]))
    gradients = tape.gradient(loss, weights)
    assert len(gradients) == 6 and all(np.abs(g).max() > 0 for g in gradients)


def test_frozen_stages_freeze_their_offsets():
    backbone = tiny(deformable_stages=(3, 4, 5), frozen_stages=3)
    trained = {w.path.split("/")[0] for w in backbone.trainable_weights if "offset" in w.path}
    assert trained == {"layer4_0_conv2", "layer4_1_conv2", "layer4_2_conv2"}


def test_half_precision_keeps_offsets_in_float32():
    """An offset of 200.25 px is 200 in bfloat16 and would miss the pixel that it should read."""
    layer = ModulatedDeformConv2D(1, use_bias=False, dtype="mixed_bfloat16")
    pixels = np.zeros((1, 3, 256, 1), "float32")
    pixels[0, 1, 201] = 1
    layer.build(pixels.shape)
    kernel = np.zeros((3, 3, 1, 1))
    kernel[1, 1] = 1
    layer.kernel.assign(kernel)
    bias = np.zeros(27)
    bias[2 * 4 + 1] = 200.25
    layer.offset_conv.bias.assign(bias)
    out = layer(pixels)
    assert keras.backend.standardize_dtype(out.dtype) == "bfloat16"
    assert float(out[0, 1, 0, 0]) == 0.25 * 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 50, "deformable_stages": (1, 2)}, r"among 2, 3, 4, 5.*=\(1, 2\)"),
        ({"depth": 18, "deformable_stages": (5,)}, r"depth=18.*deformable_stages=\(5,\)"),
    ],
)
def test_wrong_stages_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNetBackbone(**arguments)
