"""Losses and gradients on JAX and PyTorch equal TensorFlow's, and every detector trains there.

`python tests/detectors/test_every_backend.py` writes what TensorFlow computes.
"""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from backend import relative_error, run, vjp

from keras_dyhead import detectors
from keras_dyhead.backbones import ResNetBackbone, SwinBackbone
from keras_dyhead.detectors.conv_tower import head_conv
from keras_dyhead.layers import DyHeadNeck, FeaturePyramid

EXPECTED = Path(__file__).parent / "data" / "tensorflow.json"
QUICK = ("atss",)
NAMES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name in detectors.DETECTORS
]
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
SHAPES = ((None, None, 3), (64, 64, 3))
IMAGES = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
TARGETS = {
    "boxes": np.array([[[8, 8, 40, 44], [30, 4, 62, 20]], [[20, 24, 44, 60], [0, 0, 0, 0]]], "f4"),
    "labels": np.array([[1, 0], [2, -1]], "i4"),
}


def build(name, num_blocks=1, image_shape=(64, 64, 3), dtype=None):
    """A detector with weights from NumPy."""
    images = x = keras.Input(image_shape)
    maps = {}
    for level, strides in (("P2", 4), ("P3", 2), ("P4", 2), ("P5", 2)):
        maps[level] = x = keras.layers.Conv2D(16, 5, strides, "same", activation="relu")(x)
    options = {}
    if name == "faster-rcnn":  # samples everything, without randomness
        everything = detectors.RandomSampler(100_000, 1.0)
        options = {"sampler": everything, "region_sampler": everything, "head_units": 32}
    else:
        options = {"pyramid": FeaturePyramid(16, max_level=5, dtype=dtype)}
    model = detectors.DETECTORS[name](
        keras.Model(images, maps),
        num_classes=3,
        neck=DyHeadNeck(num_blocks, 16, dtype=dtype),
        image_shape=image_shape,
        dtype=dtype,
        **options,
    )
    rng = np.random.default_rng(1)
    for weight in model.trainable_variables:
        scale = 0.1 if len(weight.shape) < 2 else np.prod(weight.shape[:-1]) ** -0.5
        noise = scale * rng.normal(size=weight.shape)
        start = keras.ops.convert_to_numpy(weight) if len(weight.shape) == 1 else 0
        weight.assign(start + noise)
    return model


def losses_and_gradients(model):
    """The losses of a training step, and the norm of the gradient to every weight."""
    names = list(model.loss_names)
    weights = model.trainable_variables

    def function(*arrays):
        with keras.StatelessScope(list(zip(weights, arrays, strict=True))):
            raw = model(keras.ops.convert_to_tensor(IMAGES), training=True)
            targets = map(keras.ops.convert_to_tensor, TARGETS.values())
            losses = model.compute_losses(raw, *targets, training=True)
            return keras.ops.stack([losses[name] for name in names])

    arrays = [keras.ops.convert_to_numpy(weight) for weight in weights]
    losses, gradients = vjp(function, arrays, np.ones(len(names), "float32"))
    norms = [float(np.linalg.norm(gradient.astype("float64"))) for gradient in gradients]
    return dict(zip(names, losses.tolist(), strict=True)), norms


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_equal_tensorflows(name):
    expected = json.loads(EXPECTED.read_text())[name]
    losses, norms = losses_and_gradients(build(name))
    assert losses == pytest.approx(expected["losses"], rel=1e-5)
    assert len(norms) == len(expected["norms"])
    assert relative_error(np.array(norms), np.array(expected["norms"])) < 1e-5


@pytest.mark.skipif(ON_TENSORFLOW, reason="test_detectors.py has more of it")
@pytest.mark.parametrize("name", NAMES)
def test_a_detector_fits_and_detects(name):
    model = build(name)
    model.compile(keras.optimizers.SGD(1e-3))
    losses = model.fit(IMAGES, TARGETS, epochs=3, batch_size=2, shuffle=False, verbose=0).history
    assert losses["loss"][-1] < losses["loss"][0]
    found = model.predict(IMAGES, verbose=0)
    assert found["boxes"].shape[::2] == (2, 4) and found["labels"].max() < 3


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_dynamic_height_and_width_computes_the_same(name):
    raw, expected = (run(build(name, image_shape=shape), IMAGES) for shape in SHAPES)
    assert raw.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(raw[key], values, rtol=1e-5, atol=1e-5, err_msg=key)


@pytest.mark.parametrize(
    ("backbone", "spatial"),
    [
        (lambda: ResNetBackbone(18, base_channels=8), True),
        (lambda: SwinBackbone(8, (1, 1, 1, 1), (1, 1, 1, 1), window_size=3), False),
    ],
    ids=["resnet", "swin"],
)
def test_maps_are_channels_last_whatever_keras_is_set_to(backbone, spatial):
    def outputs():
        keras.utils.set_random_seed(0)
        neck = DyHeadNeck(1, 16, use_spatial_attention=spatial)
        model = detectors.ATSS(backbone(), 3, neck=neck, pyramid=FeaturePyramid(8, max_level=6))
        return run(model, IMAGES[:1]), neck.get_config() | {"name": None}

    expected, config = outputs()
    keras.config.set_image_data_format("channels_first")
    try:
        found, same_config = outputs()
    finally:
        keras.config.set_image_data_format("channels_last")
    assert same_config == config
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(ON_TENSORFLOW, reason="test_targets.py has more of it")
@pytest.mark.parametrize("name", NAMES)
def test_an_out_of_range_label_stops_every_backend(name):
    model = build(name)
    model.compile(keras.optimizers.SGD(1e-3))
    before = model.get_weights()
    wrong = TARGETS | {"labels": np.array([[1, 3], [2, -1]], "i4")}
    for road in (model.fit, model.train_on_batch, model.evaluate):
        with pytest.raises(ValueError, match=r"labels from 0 to 2, .* Received: \[3"):
            road(IMAGES, wrong)
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_single_filter_has_a_gradient_for_a_single_small_image():
    """PyTorch computes none for a kernel in Keras' layout."""
    layer = head_conv(1, 3, "scores", "float32")
    layer.build((None, None, None, 2))

    def function(kernel):
        with keras.StatelessScope([(layer.kernel, kernel)]):
            return layer(keras.ops.ones((1, 4, 4, 2)))

    kernel = np.ones((3, 3, 2, 1), "float32")
    outputs, (gradient,) = vjp(function, [kernel], np.ones((1, 4, 4, 1), "float32"))
    assert outputs.shape == (1, 4, 4, 1) and outputs.max() == 18
    for channel in (0, 1):
        np.testing.assert_allclose(gradient[:, :, channel, 0], np.outer([3, 4, 3], [3, 4, 3]))


if __name__ == "__main__":
    found = {name: losses_and_gradients(build(name)) for name in detectors.DETECTORS}
    found = {name: {"losses": losses, "norms": norms} for name, (losses, norms) in found.items()}
    EXPECTED.write_text(json.dumps(found) + "\n")
