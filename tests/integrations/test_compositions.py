"""What every composition of DyHead with a host package must do in the life of a Keras model."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from integrations import tiny_detectors

pytest.importorskip("keras_cv")


# The others take a minute or more each.
# Without XLA, KerasHub's has too many near ties for `predict` to find the same.
ALL = (
    *(("keras_cv_retinanet", False), ("keras_cv_yolov8", False), ("keras_hub_retinanet", True)),
    *(("keras_cv_retinanet", True), ("keras_cv_yolov8", True)),
)
QUICK = ALL[:1]


def compositions(quick):
    """The names, with and without XLA; all but the fast ones are slow tests."""
    return [
        pytest.param(
            (name, xla),
            id=f"{name}-xla" if xla else name,
            marks=() if (name, xla) in quick else pytest.mark.slow,
        )
        for name, xla in ALL
    ]


@pytest.fixture(scope="module", params=compositions(QUICK))
def composition(request):
    """The name of a composition, and whether `fit` and `predict` run under XLA."""
    return request.param


@pytest.fixture(scope="module")
def name(composition):
    return composition[0]


@pytest.fixture(scope="module")
def trained(composition):
    """The composition after `fit`, with what `fit` and the weights said."""
    name, jit_compile = composition
    keras.utils.set_random_seed(0)
    model = tiny_detectors.COMPOSITIONS[name]()
    tiny_detectors.compile_model(name, model, jit_compile=jit_compile)
    before = {w.path: keras.ops.convert_to_numpy(w) for w in model.trainable_weights}
    history = model.fit(*tiny_detectors.data(name), batch_size=2, verbose=0).history
    return model, history, before


def test_fit_trains_dyhead(trained, composition):
    """The loss is finite and gradients reach the deformable kernels."""
    model, history, before = trained
    assert model.jit_compile is composition[1]
    assert np.isfinite(history["loss"]).all()
    kernels = [w for w in model.trainable_weights if "spatial" in w.path and "kernel" in w.path]
    assert kernels
    for weight in kernels:
        assert not np.array_equal(keras.ops.convert_to_numpy(weight), before[weight.path])


def test_predict_finds_what_the_eager_model_finds(trained):
    """The same scores and boxes, with XLA too.

    Near ties may be in another order or suppress others at the threshold, so 95 of 100 boxes must
    be there, anywhere in the list.
    """
    model, _, _ = trained
    images = tiny_detectors.images(2)
    found = model.predict(images, verbose=0)
    expected = model.decode_predictions(model(images), keras.ops.convert_to_tensor(images))
    count = int(found["num_detections"].min())
    assert count > 0
    np.testing.assert_allclose(found["confidence"][:, :5], expected["confidence"][:, :5], rtol=1e-3)
    for boxes, others in zip(found["boxes"], expected["boxes"].numpy(), strict=True):
        distances = np.abs(boxes[:count, None] - others[None]).max(-1).min(1)
        assert np.mean(distances < 0.1) >= 0.95


def test_evaluate_returns_the_sum_of_both_losses(name, trained):
    x, y = tiny_detectors.data(name)
    model = tiny_detectors.compile_model(name, trained[0], run_eagerly=True)
    loss, *parts = model.evaluate(x, y, batch_size=2, verbose=0)[:3]
    assert np.isfinite(loss) and min(parts) > 0
    np.testing.assert_allclose(loss, sum(parts), rtol=1e-5)


def test_a_saved_and_loaded_model_predicts_the_same(trained, tmp_path):
    """Raw outputs and detections are bitwise equal, and the loaded model has the same class."""
    model, _, _ = trained
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert type(loaded) is type(model)
    images = tiny_detectors.images()
    expected = model(images)
    for key, value in loaded(images).items():
        np.testing.assert_array_equal(value, expected[key])
    model.run_eagerly = loaded.run_eagerly = True
    expected = model.predict(images, verbose=0)
    assert expected["num_detections"].min() > 0
    for key, value in loaded.predict(images, verbose=0).items():
        np.testing.assert_array_equal(value, expected[key])


@pytest.mark.slow
def test_an_exported_model_computes_the_same(trained, tmp_path):
    """`export` writes a SavedModel with the raw outputs of the model."""
    model, _, _ = trained
    model.export(str(tmp_path), verbose=False)
    exported = tf.saved_model.load(str(tmp_path))
    images = tf.constant(tiny_detectors.images())
    outputs = exported.serve({"images": images} if isinstance(model.input, dict) else images)
    for key, expected in model(images).items():
        np.testing.assert_allclose(outputs[key], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*tiny_detectors.COMPOSITIONS, "atss"])
def test_keras_converts_a_model_for_other_runtimes(name, forms, tmp_path):
    """To ONNX and LiteRT, which have no sparse products, even after the model has used them."""
    import onnxruntime
    from export.small_detectors import small_detector

    build = tiny_detectors.COMPOSITIONS.get(name, lambda: small_detector("atss", 1))
    model, images = build(), tiny_detectors.images(1)
    expected = {x.shape: x for x in map(np.asarray, tf.function(model)(images).values())}
    assert forms() == {"sparse"}
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    outputs = session.run(None, {session.get_inputs()[0].name: images})
    signature = keras.tree.map_structure(
        lambda _: keras.InputSpec(shape=images.shape, dtype="float32"), model.input
    )
    path = tmp_path / "model.tflite"
    model.export(path, format="litert", input_signature=[signature], verbose=False)
    interpreter = tf.lite.Interpreter(str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images)
    interpreter.invoke()
    outputs += [interpreter.get_tensor(x["index"]) for x in interpreter.get_output_details()]
    assert forms() == {"gather"} and len(outputs) == 2 * len(expected)
    for output in outputs:
        wanted = expected[output.shape]
        np.testing.assert_allclose(output, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.slow
def test_mixed_bfloat16_keeps_boxes_in_float32(name, trained):
    """Everything runs under the global policy, with bfloat16 inside and float32 boxes.

    With the same weights, losses are those of float32 up to the rounding of features.
    """
    reference, _, _ = trained
    x, y = tiny_detectors.data(name)
    expected = tiny_detectors.compile_model(name, reference, run_eagerly=True).evaluate(
        x, y, batch_size=2, verbose=0
    )
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = tiny_detectors.COMPOSITIONS[name]()
        model.set_weights(reference.get_weights())
        tiny_detectors.compile_model(name, model, run_eagerly=True)
        loss = model.evaluate(x, y, batch_size=2, verbose=0)
        detections = model.predict(x, batch_size=2, verbose=0)
        history = model.fit(x, y, batch_size=2, verbose=0).history
        raw = model(x)
    finally:
        keras.config.set_dtype_policy(policy)
    necks = [x for x in model._flatten_layers() if type(x).__name__ == "DyHeadNeck"]
    assert [x.compute_dtype for x in necks] == ["bfloat16"]
    assert {value.dtype for value in raw.values()} == {tf.float32}
    assert detections["boxes"].dtype == np.float32
    assert np.isfinite(history["loss"]).all()
    np.testing.assert_allclose(loss[0], expected[0], rtol=0.05)


@pytest.mark.slow
def test_mirrored_strategy_trains_two_identical_replicas():
    """Every composition fits, evaluates and predicts on two devices; the replicas stay equal."""
    process = subprocess.run(
        [sys.executable, "-m", "integrations.mirrored_training"],
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    report = json.loads(process.stdout.splitlines()[-1])
    assert list(report) == list(tiny_detectors.COMPOSITIONS)
    for result in report.values():
        assert result == {
            "replicas": 2,
            "loss_is_finite": True,
            "evaluation_is_finite": True,
            "kernels_moved": True,
            "replicas_agree": True,
            "detections": [4, 100, 4],
        }


@pytest.mark.parametrize("name", tiny_detectors.COMPOSITIONS)
def test_frozen_layers_stay_frozen_after_loading(name, tmp_path):
    """A block of DyHead, the layers of the backbone, and of the host's own head."""
    model = tiny_detectors.COMPOSITIONS[name]()
    host = model.backbone if name == "keras_hub_retinanet" else model
    host.backbone.trainable = False
    neck = model.feature_pyramid.neck if name == "keras_cv_retinanet" else host.neck
    neck.blocks[0].task_attention.trainable = False
    if name == "keras_cv_retinanet":
        model.box_head.conv_layers[0].trainable = False
    everything = len(model.weights)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    expected = [weight.trainable for weight in model.weights]
    assert 10 < sum(expected) < everything - 10
    assert [weight.trainable for weight in loaded.weights] == expected
    assert len(loaded.trainable_variables) == len(model.trainable_variables)
