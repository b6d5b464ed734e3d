"""The contract of ResNetBackbone and of its frozen normalization."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.backbones import ResNetBackbone
from keras_dyhead.backbones.resnet_layers import FrozenBatchNormalization, GroupedConv2D


def tiny(depth=18, **arguments):
    return ResNetBackbone(depth, base_channels=8, **arguments)


def image(height=50, width=71, batch=1):
    return np.random.default_rng(0).standard_normal((batch, height, width, 3)).astype("float32")


def randomize(model, seed=0):
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.path.endswith("moving_variance"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif len(weight.shape) == 1:
            weight.assign(weight + rng.normal(0, 0.2, weight.shape))


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [  # those of torchvision's models without their classifiers, statistics included
        ({"depth": 18}, 11_186_112),
        pytest.param({"depth": 152}, 58_295_232, marks=pytest.mark.slow),
        ({"depth": 50, "groups": 32, "width_per_group": 4}, 23_048_128),
    ],
)
def test_every_architecture_has_the_published_number_of_parameters(arguments, parameters):
    assert ResNetBackbone(**arguments).count_params() == parameters


def test_sizes_halve_by_rounding_up_and_known_sizes_change_nothing():
    x, backbone = image(), tiny()
    randomize(backbone)
    maps = backbone(x)
    sizes = {"P2": (13, 18), "P3": (7, 9), "P4": (4, 5), "P5": (2, 3)}
    for number, (level, size) in enumerate(sizes.items()):
        assert maps[level].shape == (1, *size, 8 * 2**number)
    fixed = tiny(image_shape=(50, 71, 3))
    fixed.set_weights(backbone.get_weights())
    predicted = backbone.predict(x, verbose=0)
    for level, expected in fixed(x).items():
        assert fixed.pyramid_outputs[level].shape[1:3] == sizes[level]
        scale = np.abs(expected).max()
        np.testing.assert_allclose(maps[level], expected, atol=1e-5 * scale)
        np.testing.assert_allclose(predicted[level], expected, atol=1e-5 * scale)


def test_a_group_sees_only_its_own_channels():
    """ResNeXt is a ResNet whose 3x3 kernels are zero outside the blocks of the groups."""
    grouped = tiny(50, groups=2, width_per_group=32)
    dense = tiny(50, groups=1, width_per_group=64)
    randomize(grouped)
    for weight, wide in zip(grouped.weights, dense.weights, strict=True):
        if weight.shape == wide.shape:
            wide.assign(weight)
        else:
            inputs, outputs = weight.shape[2], weight.shape[3] // 2
            kernel = np.zeros(wide.shape)
            for group in range(2):
                columns = slice(group * outputs, (group + 1) * outputs)
                rows = slice(group * inputs, (group + 1) * inputs)
                kernel[:, :, rows, columns] = np.asarray(weight)[..., columns]
            wide.assign(kernel)
    expected, found = dense(image()), grouped(image())
    for level, m in found.items():
        np.testing.assert_allclose(m, expected[level], atol=1e-5 * np.abs(expected[level]).max())


@pytest.mark.parametrize(("strides", "padding"), [(1, "same"), (2, "valid"), ((2, 1), "same")])
def test_gradients_of_a_grouped_convolution_are_those_of_its_groups(strides, padding):
    """On every processor; TensorFlow's own gradient kernels need oneDNN or a GPU."""
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 9, 7, 6)), rng.standard_normal((3, 3, 2, 9))
    layer = GroupedConv2D(9, 3, strides, padding, groups=3, use_bias=False)
    layer.build(x.shape)
    layer.kernel.assign(kernel)
    with tf.GradientTape(persistent=True) as tape:
        x, kernel = tf.constant(x, "float32"), tf.constant(kernel, "float32")
        tape.watch([x, kernel])
        groups = zip(tf.split(x, 3, -1), tf.split(kernel, 3, -1), strict=True)
        expected = tf.concat([tf.nn.conv2d(a, b, strides, padding.upper()) for a, b in groups], -1)
        out = layer(x)
        losses = [tf.reduce_sum(tf.square(y)) for y in (out, expected)]
    np.testing.assert_allclose(out, expected, atol=1e-4)
    for ours, theirs in [(layer.kernel.value, kernel), (x, x)]:
        gradient, expected = tape.gradient(losses[0], ours), tape.gradient(losses[1], theirs)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("style", "strided"), [("pytorch", "conv2"), ("caffe", "conv1")])
def test_the_style_places_the_stride(style, strided):
    backbone = tiny(50, style=style)
    strides = {
        layer.name: layer.strides
        for layer in backbone.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.strides != (1, 1)
    }
    expected = {
        "conv1",
        *(f"layer{s}_0_{n}" for s in (2, 3, 4) for n in (strided, "downsample_conv")),
    }
    assert set(strides) == expected


def test_a_strided_convolution_reads_one_pixel_beyond_both_edges():
    """Keras' "same" would read pixels 0..2 for output 0 of even sizes; PyTorch reads -1..1."""
    backbone = tiny(image_shape=(64, 64, 3))
    conv = backbone.get_layer("layer2_0_conv1")
    kernel = np.zeros(conv.kernel.shape)
    kernel[:, :, 0, 0] = np.arange(9).reshape(3, 3)
    conv.kernel.assign(kernel)
    pixels = np.zeros((1, 16, 16, 8), "float32")
    pixels[0, 0, 0, 0] = 1
    padded = backbone.get_layer("layer2_0_conv1_pad")(pixels)
    out = np.asarray(conv(padded))[0, ..., 0]
    assert out.shape == (8, 8)
    assert out[0, 0] == 4
    assert np.count_nonzero(out) == 1


@pytest.mark.parametrize(
    ("batch_norm", "frozen_stages", "expected"),
    [
        ("frozen", -1, {"kernel": 20}),
        ("train", -1, {"kernel": 20, "gamma": 20, "beta": 20}),
        ("affine", 0, {"kernel": 19, "gamma": 19, "beta": 19}),
        ("affine", 1, {"kernel": 15, "gamma": 15, "beta": 15}),
        ("frozen", 4, {}),
    ],
)
def test_what_trains(batch_norm, frozen_stages, expected, tmp_path):
    backbone = tiny(batch_norm=batch_norm, frozen_stages=frozen_stages)
    backbone.save(tmp_path / "resnet.keras")
    for model in (backbone, keras.saving.load_model(tmp_path / "resnet.keras")):
        kinds = [weight.path.split("/")[-1] for weight in model.trainable_weights]
        assert {kind: kinds.count(kind) for kind in kinds} == expected


def test_training_does_not_update_stored_statistics():
    layer = FrozenBatchNormalization(train_affine=True)
    layer.build((None, None, None, 2))
    layer.set_weights(np.array([[2, 3], [1, -1], [0.5, 4], [4, 0.25]]))
    names = ["gamma", "beta", "moving_mean", "moving_variance"]
    values = {w.name: np.asarray(w, "float64") for w in layer.weights}
    assert sorted(values) == sorted(names)
    x = np.random.default_rng(0).standard_normal((2, 3, 3, 2))
    expected = (x - values["moving_mean"]) / np.sqrt(values["moving_variance"] + 1e-5)
    expected = expected * values["gamma"] + values["beta"]
    np.testing.assert_allclose(layer(x, training=True), expected, rtol=1e-5, atol=1e-5)
    layer.trainable = True
    assert [w.name for w in layer.trainable_weights] == ["gamma", "beta"]


def test_frozen_normalization_stays_frozen_when_a_model_is_made_trainable():
    backbone = tiny()
    backbone.trainable = True
    assert {w.path.split("/")[-1] for w in backbone.trainable_weights} == {"kernel"}


def test_a_saved_backbone_gives_the_same_maps(tmp_path):
    backbone = tiny(50, style="caffe", batch_norm="affine", frozen_stages=1, name="resnet")
    randomize(backbone)
    backbone.save(tmp_path / "resnet.keras")
    restored = keras.saving.load_model(tmp_path / "resnet.keras")
    assert restored.get_config() == backbone.get_config()
    for level, expected in backbone(image()).items():
        np.testing.assert_array_equal(restored(image())[level], expected)


def test_half_precision_keeps_statistics_in_float32():
    backbone = tiny(dtype="mixed_bfloat16")
    assert {w.dtype for w in backbone.weights} == {"float32"}
    out = FrozenBatchNormalization(dtype="bfloat16")
    out.build((None, 4))
    assert {w.dtype for w in out.weights} == {"float32"}
    maps = backbone(image())
    assert {keras.backend.standardize_dtype(m.dtype) for m in maps.values()} == {"bfloat16"}
    full = tiny()
    full.set_weights(backbone.get_weights())
    for level, expected in full(image()).items():
        error = np.abs(np.asarray(keras.ops.cast(maps[level], "float32")) - expected)
        assert error.mean() < 0.03 * np.abs(expected).mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 20}, "`depth` must be one of .*20"),
        ({"style": "tf"}, "'tf'"),
        ({"batch_norm": True}, "True"),
        ({"frozen_stages": 5}, "Received: frozen_stages=5"),
        ({"depth": 18, "groups": 32}, "groups=32"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNetBackbone(**arguments)
