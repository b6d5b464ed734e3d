"""What every detector must do as a Keras model, with and without DyHead."""

import dataclasses

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from detectors.scenes import CLASSES, SMALL, assert_same, scene, small_backbone, small_detector

from keras_dyhead import detectors
from keras_dyhead.detectors import ATSS, DETECTORS, DenseDetector, Detector
from keras_dyhead.layers import DyHeadNeck, FeaturePyramid


def overlap(a, b):
    sides = np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]))
    return np.prod(sides) / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - np.prod(sides))


EVERY_DETECTOR = pytest.mark.parametrize("name", SMALL)
WITH_AND_WITHOUT_DYHEAD = pytest.mark.parametrize("num_blocks", [0, 1])


def own_config(model):
    """The configuration without the shapes of layers, where Keras turns tuples into lists."""
    layers = {name: getattr(model, name) for name in ("neck", "pyramid")}
    layers = {name: layer and layer.get_config() for name, layer in layers.items()}
    return model.get_config() | layers | {"backbone": None}


# The others take half a minute each. Tests below train all detectors for a few steps.
QUICK_RUNS = ("atss-1", "faster-rcnn-0")


def training_runs(quick):
    """All detectors without and with DyHead. All except the quick ones are slow tests."""
    names = [f"{name}-{n}" for name in SMALL for n in (0, 1)]
    return [pytest.param(n, marks=() if n in quick else pytest.mark.slow) for n in names]


@pytest.fixture(scope="module", params=training_runs(QUICK_RUNS))
def trained(request):
    """A detector trained on the scene, its training history, and its `Small`."""
    name, num_blocks = request.param.rsplit("-", 1)
    model = small_detector(name, int(num_blocks))
    model.compile(keras.optimizers.Adam(5e-3))
    (images, targets), epochs = scene(), SMALL[name].epochs
    history = model.fit(images, targets | {"image_id": np.arange(2)}, epochs=epochs, verbose=0)
    return model, history.history, SMALL[name]


def test_training_lowers_each_named_loss_and_finds_the_objects(trained):
    model, history, small = trained
    assert set(history) == {"loss", *model.loss_names}
    for name in set(model.loss_names).difference(small.lasting_losses):
        assert history[name][-1] < 0.4 * history[name][0]
    total = np.sum([history[name] for name in model.loss_names], axis=0)
    np.testing.assert_allclose(history["loss"], total, rtol=1e-5)
    images, targets = scene()
    out = model.predict(images, verbose=0)
    assert {k: (v.shape, str(v.dtype)) for k, v in out.items()} == {
        "boxes": ((2, 100, 4), "float32"),
        "labels": ((2, 100), "int32"),
        "confidence": ((2, 100), "float32"),
        "num_detections": ((2,), "int32"),
    }
    for label, box in zip(targets["labels"][0, :2], targets["boxes"][0], strict=False):
        best = out["boxes"][0][np.argmax(out["labels"][0] == label)]
        assert overlap(best, box) > 0.6


def test_a_saved_model_predicts_the_same_and_continues_training(trained, tmp_path):
    model, *_ = trained
    images, targets = scene()
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    restored.run_eagerly = True  # quicker for a step or two
    assert_same(restored.predict(images, verbose=0), model.predict(images, verbose=0))
    assert own_config(restored) == own_config(model)
    for ours, theirs in zip(restored.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    loss = restored.fit(images, targets, verbose=0).history["loss"][0]
    np.testing.assert_allclose(loss, model.compute_loss(images, targets, model(images)), rtol=1e-4)


def test_raw_outputs_are_flat_and_decode_to_what_predict_returns(trained):
    model, _, small = trained
    images, _ = scene()
    raw = model(images)
    locations = (8 * 12 + 4 * 6 + 2 * 3) * model.locations_per_cell
    assert set(raw) == {*small.raw, *small.maps, "level_sizes"}
    shapes = {key: tuple(raw[key].shape) for key in small.raw}
    assert shapes == {key: (2, locations, *last) for key, last in small.raw.items()}
    predicted = model.predict({"images": images}, verbose=0)
    assert_same(model.decode(raw, [(64, 96), (64, 96)]), predicted)


def test_a_new_decoder_takes_effect_at_the_next_predict(trained):
    model, *_ = trained
    images, _ = scene()
    decoder = model.decoder
    model.predict(images, verbose=0)
    model.decoder = dataclasses.replace(decoder, max_detections=7)
    assert model.predict(images, verbose=0)["labels"].shape == (2, 7)
    model.decoder = decoder


NOTHING = {"boxes": np.zeros((2, 0, 4), "float32"), "labels": np.zeros((2, 0), int)}


def assert_background_is_trained(name, model, targets):
    """Without objects, some losses are zero and others lower the scores."""
    model.reset_metrics()
    bias = SMALL[name].background_bias(model)
    before = bias.numpy()
    logs = model.train_on_batch(scene()[0], targets, return_dict=True)
    for loss in model.loss_names:
        assert (logs[loss] > 0) if loss in SMALL[name].background_losses else (logs[loss] == 0)
    assert (bias.numpy() < before).all()


def padded(targets, places):
    missing = places - targets["labels"].shape[1]
    return {
        "boxes": np.pad(targets["boxes"], [(0, 0), (0, missing), (0, 0)]),
        "labels": np.pad(targets["labels"], [(0, 0), (0, missing)], constant_values=-1),
    }


@EVERY_DETECTOR
@pytest.mark.parametrize("num_blocks", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_one_trace_trains_with_few_objects_hundreds_and_none(name, num_blocks, monkeypatch):
    traces = []
    compute_loss = Detector.compute_loss

    def counting(self, *args, **kwargs):
        traces.append(1)
        return compute_loss(self, *args, **kwargs)

    monkeypatch.setattr(Detector, "compute_loss", counting)
    model = small_detector(name, num_blocks)
    model.compile("sgd")
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 50, (2, 300, 2))
    hundreds = {
        "boxes": np.float32(np.dstack([corner, corner + rng.uniform(1, 40, corner.shape)])),
        "labels": np.stack([rng.integers(0, CLASSES, 300), np.full(300, -1)]),
    }
    images, few = scene()
    for targets in (hundreds, padded(few, 300)):
        logs = model.train_on_batch(images, targets, return_dict=True)
        assert all(np.isfinite(logs[loss]) and logs[loss] > 0 for loss in model.loss_names)
    assert_background_is_trained(name, model, padded(NOTHING, 300))
    assert len(traces) == 1


@EVERY_DETECTOR
def test_padding_that_no_image_uses_costs_nothing(name, monkeypatch):
    """A dataset may pad to its fullest image; padding between objects is kept."""
    model, shapes = small_detector(name), []
    compute_losses = type(model).compute_losses

    def spied(self, raw, boxes, labels, *arguments):
        shapes.append((boxes.shape, labels.shape))
        return compute_losses(self, raw, boxes, labels, *arguments)

    monkeypatch.setattr(type(model), "compute_losses", spied)
    images, few = scene()
    used = 1 + np.flatnonzero((few["labels"] >= 0).any(axis=0))[-1]
    apart = {key: np.roll(value, 2, axis=1) for key, value in padded(few, 10).items()}
    for targets in (few, padded(few, 300), padded(apart, 300)):
        model.compute_loss(images, targets, model(images))
    expected = [((2, n, 4), (2, n)) for n in (used + 1, used + 1, used + 3)]
    assert shapes == expected


@EVERY_DETECTOR
def test_targets_of_length_zero_train_the_background(name):
    model = small_detector(name)
    model.compile("adam", run_eagerly=True)
    assert_background_is_trained(name, model, NOTHING)


@pytest.mark.parametrize("name", [name for name in SMALL if "class_logits" in SMALL[name].raw])
def test_every_class_starts_at_the_prior_probability(name):
    images, _ = scene()
    probability = tf.sigmoid(small_detector(name)(images * 0)["class_logits"])
    np.testing.assert_allclose(probability, 0.01, rtol=1e-4)


@pytest.mark.slow
@EVERY_DETECTOR
@WITH_AND_WITHOUT_DYHEAD
def test_xla_trains_like_the_plain_graph(name, num_blocks):
    images, targets = scene()
    losses = []
    for jit_compile in (False, True):
        model = small_detector(name, num_blocks, image_shape=(64, 96, 3))
        model.compile(keras.optimizers.SGD(0.01), jit_compile=jit_compile)
        losses.append(model.fit(images, targets, epochs=3, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


# In float16, where losses are scaled, only ATSS, as RetinaNet and FCOS share its head.
@pytest.mark.parametrize(
    ("policy", "num_blocks", "name"),
    [
        ("mixed_float16", 0, "atss"),
        *(("mixed_bfloat16", 0, name) for name in ("faster-rcnn", "reppoints")),
        *(
            pytest.param("mixed_bfloat16", 0, n, marks=pytest.mark.slow)
            for n in ("fcos", "retinanet")
        ),
        *(pytest.param("mixed_float16", 1, name, marks=pytest.mark.slow) for name in SMALL),
    ],
)
def test_mixed_precision_keeps_weights_finite_and_predicts_float32(name, policy, num_blocks):
    images, targets = scene()
    model = small_detector(name, num_blocks, dtype=policy)
    for layer in [model.pyramid, model.head] + [model.neck] * num_blocks:
        assert layer.compute_dtype == policy.split("_")[1]
    # bfloat16 adds nothing to a graph; float16 adds the scaling of losses.
    model.compile(keras.optimizers.Adam(1e-3), run_eagerly=policy == "mixed_bfloat16")
    history = model.fit(images, targets, epochs=3, verbose=0).history
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0]
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    raw = model(images)
    assert all(raw[key].dtype == tf.float32 for key in SMALL[name].raw)
    boxes = model.decode(raw)["boxes"]
    assert boxes.dtype == tf.float32 and np.isfinite(boxes).all()


@pytest.mark.parametrize("name", ["atss", "reppoints"])
def test_float64_detectors_train_with_the_default_optimizer(name):
    """It clips all gradients together, so they must have one dtype."""
    images, targets = scene()
    small, wide = SMALL[name], {"dtype": "float64"}
    arguments = small.parts(1, **wide) | small.arguments
    model = small.detector(small_backbone(**wide), CLASSES, **arguments, **wide)
    model.compile(run_eagerly=True)
    assert np.isfinite(model.train_on_batch(images, targets)).all()


def test_an_optimizer_saved_on_pytorch_is_restored():
    model = small_detector("atss")
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW(0.5)))
    config = model.get_compile_config()
    inner = config["optimizer"]["config"]["inner_optimizer"]
    inner["module"] = "keras.src.backend.torch.optimizers.torch_adamw"
    model.compile_from_config(config)
    assert type(model.optimizer.inner_optimizer) is keras.optimizers.AdamW
    assert model.optimizer.inner_optimizer.get_config()["learning_rate"] == 0.5


def test_kerashub_backbones_and_datasets_of_varying_sizes_are_accepted():
    backbone = keras_hub.models.ResNetBackbone(
        [64], [7], [64, 64, 64, 64], [1, 1, 1, 1], [1, 2, 2, 2], "basic_block"
    )
    model = ATSS(backbone, CLASSES, None, FeaturePyramid(16, max_level=5), head_layers=1)
    model.compile("sgd")

    def batches():
        for height, width in [(50, 70), (64, 33)]:
            yield (
                np.zeros((1, height, width, 3), "float32"),
                {
                    "boxes": np.array([[[5, 5, 30, 30]]], "float32"),
                    "labels": np.array([[1]]),
                },
            )

    signature = (
        tf.TensorSpec((None, None, None, 3)),
        {"boxes": tf.TensorSpec((None, None, 4)), "labels": tf.TensorSpec((None, None), tf.int64)},
    )
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(2))
    model.fit(dataset, verbose=0)
    assert model.predict(dataset, verbose=0)["boxes"].shape == (2, 100, 4)
    copy = ATSS.from_config(model.get_config())
    assert [w.path for w in copy.weights] == [w.path for w in model.weights]
    assert own_config(copy) == own_config(model)


def test_every_detector_of_the_package_has_a_name():
    exported = [getattr(detectors, name) for name in detectors.__all__]
    exported = {x for x in exported if isinstance(x, type) and issubclass(x, Detector)}
    assert set(DETECTORS.values()) == exported - {Detector, DenseDetector}
    assert {name: small.detector for name, small in SMALL.items()} == DETECTORS


@EVERY_DETECTOR
def test_neck_and_pyramid_are_the_ones_given(name):
    neck, pyramid = DyHeadNeck(0, 16), FeaturePyramid(16, max_level=5, extra_levels="pool")
    given = small_detector(name, neck=neck, pyramid=pyramid)
    assert given.neck is neck and given.pyramid is pyramid


def test_neck_and_pyramid_fit_each_other_by_default():
    by_pyramid = ATSS(small_backbone(), CLASSES, pyramid=FeaturePyramid(16, max_level=5)).neck
    assert isinstance(by_pyramid, DyHeadNeck)
    assert (by_pyramid.num_blocks, by_pyramid.channels) == (6, 16)
    by_neck = ATSS(small_backbone(), CLASSES, DyHeadNeck(0, 32)).pyramid
    assert (by_neck.channels, by_neck.min_level, by_neck.max_level) == (32, 3, 7)


def test_any_layer_that_maps_a_pyramid_to_a_pyramid_is_a_neck():
    """Including one that changes the number of channels, which the head then has."""

    @keras.saving.register_keras_serializable(package="tests")
    class Doubled(keras.layers.Layer):
        def call(self, pyramid):
            return {level: tf.concat([x, x], axis=-1) for level, x in pyramid.items()}

    model = small_detector("atss", neck=Doubled(), head_layers=1)
    shapes = {w.path: tuple(w.shape) for w in model.head.weights}
    assert shapes["head/class_conv_0/kernel"] == (3, 3, 32, 32)
    copy = type(model).from_config(model.get_config())
    assert isinstance(copy.neck, Doubled)


@pytest.mark.parametrize("wrong", [{"neck": "dynamic"}, {"neck": 6}, {"pyramid": "fpn"}])
def test_a_neck_or_pyramid_of_the_wrong_type_is_rejected(wrong):
    (value,) = wrong.values()
    with pytest.raises(TypeError, match=f"`{list(wrong)[0]}` must be .*Received: {value!r}"):
        small_detector("atss", **wrong)


def test_regularization_of_the_backbone_is_part_of_the_loss():
    backbone = small_backbone(bias_regularizer=keras.regularizers.L1(0.5), bias_initializer="ones")
    model = ATSS(backbone, CLASSES, None, FeaturePyramid(16))
    model.compile("sgd")
    logs = model.test_on_batch(*scene(), return_dict=True)
    penalty = logs["loss"] - sum(logs[name] for name in model.loss_names)
    np.testing.assert_allclose(penalty, 0.5 * 3 * 16, rtol=1e-4)


def test_invalid_calls_are_explained():
    model = small_detector("atss")
    images, targets = scene()
    for name, value in (
        *(("loss", "mse"), ("loss_weights", {"box_loss": 2.0})),
        *(("metrics", ["accuracy"]), ("weighted_metrics", ["accuracy"])),
    ):
        with pytest.raises(ValueError, match=f"its own losses and metrics: `{name}` must be None"):
            model.compile(**{name: value})
    model.compile()
    with pytest.raises(ValueError, match="Received: \\['boxes', 'classes'\\]"):
        model.fit(images, {"boxes": targets["boxes"], "classes": targets["labels"]}, verbose=0)
    with pytest.raises(ValueError, match="sample_weight"):
        model.fit(images, targets, sample_weight=np.ones(2), verbose=0)
    with pytest.raises(ValueError, match="loss_normalizer.*'mean'"):
        small_detector("atss", loss_normalizer="mean")


def test_the_running_normalizer_moves_only_in_training_steps_and_is_saved(tmp_path):
    """detectron2's mean moves from 100 a tenth of the way toward the positives of each batch."""
    model = small_detector("retinanet", loss_normalizer="running")
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    images, targets = scene()
    boxes, labels = (tf.constant(targets[key]) for key in ("boxes", "labels"))
    _, assigned, _ = model.match(model(images), boxes, labels)
    positives = int(np.sum(np.asarray(assigned) >= 0))
    model.evaluate(images, targets, verbose=0)
    assert float(model.running_positives) == 100
    model.fit(images, targets, batch_size=2, epochs=2, verbose=0)
    expected = 0.9 * (0.9 * 100 + 0.1 * positives) + 0.1 * positives
    np.testing.assert_allclose(float(model.running_positives), expected, rtol=1e-6)
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    assert float(restored.running_positives) == float(model.running_positives)
