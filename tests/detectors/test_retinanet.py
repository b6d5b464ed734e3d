"""RetinaNet as a Keras model: it trains, predicts, saves, and runs where Keras models run."""

import dataclasses
import os
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.detectors import AnchorGenerator, DetectionDecoder, Detector, RetinaNet

CLASSES = 3


def small_backbone(**options):
    """A plain model from images to C3..C5; no batch statistics, so batches can be split."""
    images = x = keras.Input((None, None, 3))
    maps = {}
    for level, strides in [("P3", 8), ("P4", 2), ("P5", 2)]:
        x = keras.layers.Conv2D(16, 9, strides, "same", activation="relu", **options)(x)
        maps[level] = x
    return keras.Model(images, maps)


def small_retinanet(**kwargs):
    keras.utils.set_random_seed(0)
    defaults = {
        "num_blocks": 0,
        "channels": 16,
        "head_convs": 0,
        "max_level": 6,
        "anchors": AnchorGenerator(3.0, 1, (0.5, 1.0, 2.0)),
    }
    return RetinaNet(small_backbone(), CLASSES, **defaults | kwargs)


def scene():
    """Two images of noise: one with two bright boxes, one with nothing."""
    images = np.random.default_rng(0).normal(0, 0.1, (2, 64, 96, 3)).astype("float32")
    boxes = np.array(
        [[[8, 8, 40, 44], [50, 20, 90, 48], [0, 0, 0, 0]], np.zeros((3, 4))], "float32"
    )
    labels = np.array([[0, 2, -1], [-1, -1, -1]])
    images[0, 8:44, 8:40] += [1, 0, 0]
    images[0, 20:48, 50:90] += [0, 0, 1]
    return images, {"boxes": boxes, "labels": labels}


def overlap(a, b):
    sides = np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]))
    return np.prod(sides) / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - np.prod(sides))


def assert_same(a, b, atol=1e-4):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], atol=atol, err_msg=key)


@pytest.fixture(scope="module")
def trained():
    model = small_retinanet(num_blocks=1)
    model.compile(keras.optimizers.Adam(5e-3))
    images, targets = scene()
    history = model.fit(images, targets | {"image_id": np.arange(2)}, epochs=60, verbose=0).history
    return model, history


def test_training_lowers_each_named_loss_and_finds_the_objects(trained):
    model, history = trained
    assert set(history) == {"loss", "class_loss", "box_loss"}
    for values in history.values():
        assert values[-1] < 0.3 * values[0]
    np.testing.assert_allclose(
        history["loss"], np.add(history["class_loss"], history["box_loss"]), rtol=1e-5
    )
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


def test_a_saved_model_predicts_the_same_and_goes_on_training(trained, tmp_path):
    model, _ = trained
    images, targets = scene()
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    assert_same(restored.predict(images, verbose=0), model.predict(images, verbose=0))
    assert restored.anchors == model.anchors and restored.decoder == model.decoder
    assert restored.preprocessor.get_config() == model.preprocessor.get_config()
    for ours, theirs in zip(restored.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    loss = restored.fit(images, targets, verbose=0).history["loss"][0]
    np.testing.assert_allclose(loss, model.evaluate(images, targets, verbose=0)[0], rtol=1e-4)


def test_the_first_step_is_traced_once(monkeypatch):
    traces = []
    compute_loss = RetinaNet.compute_loss

    def counting(self, *args, **kwargs):
        traces.append(1)
        return compute_loss(self, *args, **kwargs)

    monkeypatch.setattr(RetinaNet, "compute_loss", counting)
    model = small_retinanet()
    model.compile("adam")
    model.fit(*scene(), epochs=2, verbose=0)
    assert len(traces) == 1


def test_raw_outputs_are_flat_and_decode_to_what_predict_returns(trained):
    model, _ = trained
    images, _ = scene()
    raw = model(images)
    cells = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2
    assert raw["class_logits"].shape == (2, cells * 3, CLASSES)
    assert raw["box_deltas"].shape == (2, cells * 3, 4)
    predicted = model.predict(images, verbose=0)
    assert_same(model.decode(raw, [(64, 96), (64, 96)]), predicted)
    # Stored outputs know no level sizes: they are found from the sizes of the images.
    stored = {key: raw[key].numpy() for key in ("class_logits", "box_deltas")}
    assert_same(model.decode(stored, [(64, 96), (64, 96)]), predicted)
    with pytest.raises(ValueError, match="level_sizes"):
        model.decode(stored, [(64, 200), (64, 96)])


def test_losses_equal_a_loop_over_anchors():
    """Focal loss over all anchors but the ignored, L1 over positives, both per positive."""
    model = small_retinanet(box_weights=(10.0, 10.0, 5.0, 5.0), smooth_l1_beta=0.4)
    images, targets = scene()
    raw = {key: np.asarray(value) for key, value in model(images).items()}
    rng = np.random.default_rng(0)
    raw["class_logits"] = rng.normal(size=raw["class_logits"].shape).astype("float32")
    raw["box_deltas"] = rng.normal(size=raw["box_deltas"].shape).astype("float32")
    anchors = np.asarray(model.anchors([(8, 12), (4, 6), (2, 3), (1, 2)], 3), "float64")
    assigned = np.asarray(model.assigner(anchors, targets["boxes"], targets["labels"]))
    assert {-2, -1, 0, 1} == set(assigned[0]) and {-1} == set(assigned[1])

    class_loss = box_loss = 0.0
    for b in range(2):
        for a, anchor in enumerate(anchors):
            n = assigned[b, a]
            for k in range(CLASSES if n != -2 else 0):
                p = 1 / (1 + np.exp(-float(raw["class_logits"][b, a, k])))
                truth = n >= 0 and targets["labels"][b, n] == k
                class_loss -= 0.25 * (1 - p) ** 2 * np.log(p) if truth else 0
                class_loss -= 0.75 * p**2 * np.log(1 - p) if not truth else 0
            if n >= 0:
                box = targets["boxes"][b, n].astype("float64")
                size, anchor_size = box[2:] - box[:2], anchor[2:] - anchor[:2]
                shift = (box[2:] + box[:2] - anchor[2:] - anchor[:2]) / 2 / anchor_size
                delta = np.concatenate([10 * shift, 5 * np.log(size / anchor_size)])
                error = np.abs(delta - raw["box_deltas"][b, a])
                box_loss += np.where(error < 0.4, error**2 / 0.8, error - 0.2).sum()
    positives = (assigned[0] >= 0).sum() + 1  # the image without objects counts one
    losses = model.compute_losses(
        raw, tf.constant(targets["boxes"]), tf.constant(targets["labels"], tf.int32)
    )
    np.testing.assert_allclose(losses["class_loss"], class_loss / positives, rtol=1e-5)
    np.testing.assert_allclose(losses["box_loss"], box_loss / positives, rtol=1e-5)


def test_images_without_objects_train_the_background():
    model = small_retinanet()
    model.compile("adam")
    images, _ = scene()
    for places in (0, 4):
        empty = {"boxes": np.zeros((2, places, 4)), "labels": np.full((2, places), -1)}
        before = model.get_layer("head").class_logits.bias.numpy()
        logs = model.train_on_batch(images, empty, return_dict=True)
        assert logs["class_loss"] > 0 and logs["box_loss"] == 0
        assert (model.get_layer("head").class_logits.bias.numpy() < before).all()


def test_every_class_starts_at_the_prior_probability():
    images, _ = scene()
    probability = tf.sigmoid(small_retinanet()(images * 0)["class_logits"])
    np.testing.assert_allclose(probability, 0.01, rtol=1e-4)


def test_xla_trains_like_the_plain_graph():
    images, targets = scene()
    losses = []
    for jit_compile in (False, True):
        model = small_retinanet(image_shape=(64, 96, 3))
        model.compile(keras.optimizers.SGD(0.01), jit_compile=jit_compile)
        losses.append(model.fit(images, targets, epochs=3, verbose=0).history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


@pytest.mark.parametrize(("policy", "num_blocks"), [("mixed_bfloat16", 1), ("mixed_float16", 0)])
def test_mixed_precision_trains_finite_and_predicts_float32(policy, num_blocks):
    images, targets = scene()
    model = small_retinanet(num_blocks=num_blocks, dtype=policy)
    assert model.get_layer("feature_pyramid").compute_dtype == policy.split("_")[1]
    model.compile(keras.optimizers.Adam(1e-3))
    history = model.fit(images, targets, epochs=3, verbose=0).history
    assert np.isfinite(history["loss"]).all() and history["loss"][-1] < history["loss"][0]
    out = model.predict(images, verbose=0)
    assert out["boxes"].dtype == np.float32 and np.isfinite(out["boxes"]).all()
    assert model(images)["box_deltas"].dtype == tf.float32


def test_kerashub_backbones_and_datasets_of_changing_sizes_are_accepted():
    backbone = keras_hub.models.ResNetBackbone(
        [64], [7], [64, 64, 64, 64], [1, 1, 1, 1], [1, 2, 2, 2], "basic_block"
    )
    model = RetinaNet(backbone, CLASSES, num_blocks=0, channels=16, head_convs=1)
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
    model.fit(dataset, validation_data=dataset, verbose=0)
    assert model.predict(dataset, verbose=0)["boxes"].shape == (2, 100, 4)
    copy = RetinaNet.from_config(model.get_config())
    assert [w.path for w in copy.weights] == [w.path for w in model.weights]


def test_another_decoder_takes_effect_in_the_next_predict(trained):
    model, _ = trained
    images, _ = scene()
    decoder = model.decoder
    model.predict(images, verbose=0)
    model.decoder = dataclasses.replace(decoder, max_detections=7)
    assert model.predict(images, verbose=0)["labels"].shape == (2, 7)
    model.decoder = decoder


def test_regularization_of_the_backbone_is_part_of_the_loss():
    backbone = small_backbone(bias_regularizer=keras.regularizers.L1(0.5), bias_initializer="ones")
    model = RetinaNet(backbone, CLASSES, num_blocks=0, channels=16)
    model.compile("sgd")
    logs = model.test_on_batch(*scene(), return_dict=True)
    penalty = logs["loss"] - logs["class_loss"] - logs["box_loss"]
    np.testing.assert_allclose(penalty, 0.5 * 3 * 16, rtol=1e-4)


def test_wrong_calls_are_explained():
    model = small_retinanet()
    images, targets = scene()
    with pytest.raises(ValueError, match="brings its own losses"):
        model.compile(loss="mse")
    model.compile()
    with pytest.raises(ValueError, match="Received: \\['boxes', 'classes'\\]"):
        model.fit(images, {"boxes": targets["boxes"], "classes": targets["labels"]}, verbose=0)
    with pytest.raises(ValueError, match="sample_weight"):
        model.fit(images, targets, sample_weight=np.ones(2), verbose=0)
    assert isinstance(model, Detector) and DetectionDecoder() == model.decoder


TWO_REPLICAS = """
import numpy as np, tensorflow as tf, keras
from tests.detectors.test_retinanet import scene, small_retinanet

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
images, targets = scene()  # one replica gets the image with objects, the other the empty one
results = []
for scope in (tf.distribute.get_strategy().scope, strategy.scope):
    with scope():
        model = small_retinanet()
        model.compile(keras.optimizers.SGD(0.1))
    logs = model.fit(images, targets, batch_size=2, verbose=0).history
    out = model.predict(images, batch_size=2, verbose=0)
    results.append((logs, [w.numpy() for w in model.weights], out))
(logs, weights, out), (other_logs, other_weights, other_out) = results
for name in logs:
    np.testing.assert_allclose(other_logs[name], logs[name], rtol=1e-5, err_msg=name)
for a, b in zip(weights, other_weights, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-6)
for name in out:
    np.testing.assert_allclose(other_out[name], out[name], atol=1e-3, err_msg=name)
print("equal on", strategy.num_replicas_in_sync, "replicas")
"""


def test_a_step_on_two_replicas_equals_the_step_on_the_whole_batch():
    process = subprocess.run(
        [sys.executable, "-c", TWO_REPLICAS],
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
    )
    assert "equal on 2 replicas" in process.stdout, process.stderr
