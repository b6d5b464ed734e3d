"""Exported detectors of KerasCV and KerasHub find what `predict` finds."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from cli.commands import output_of
from integrations import tiny_detectors
from PIL import Image

from keras_dyhead import export
from keras_dyhead.checkpoints import load_detector
from keras_dyhead.coco import draw_shapes
from keras_dyhead.detectors import DetectionPreprocessor
from keras_dyhead.export import export_litert, export_onnx, export_saved_model
from keras_dyhead.inference import TestTimeAugmentation, image_detector, read_rgb
from keras_dyhead.integrations.hosted import HostedDetector, is_hosted

pytest.importorskip("keras_cv")


def run_saved_model(model, path, **arguments):
    export_saved_model(model, path, **arguments)
    return tf.saved_model.load(str(path)).signatures["serving_default"]


def run_onnx(model, path, **arguments):
    import onnxruntime

    export_onnx(model, path, **arguments)
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(
        zip(names, session.run(names, {"images": np.asarray(images)}), strict=True)
    )


def run_litert(model, path, **arguments):
    export_litert(model, path, **arguments)
    run = tf.lite.Interpreter(str(path)).get_signature_runner()
    return lambda images: run(images=np.asarray(images))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Drawn images of two shapes: one is padded at the right, one at the bottom."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_shapes(folder, 1, 96)
    image = read_rgb(next((folder / "images").iterdir()))
    return [image[:90, :60], image[:48]]


def decoded(model, images):
    """The host's own decoding of a batch of one."""
    found = model.decode_predictions(model(images), images)
    found = {key: np.asarray(value)[0] for key, value in found.items()}
    return {"classes" if key == "labels" else key: value for key, value in found.items()}


def expected_in(model, batch, image):
    """The same in pixels of the image, without detections in its padding."""
    found, (height, width) = decoded(model, batch["images"]), image.shape[:2]
    scale_y, scale_x = np.asarray(batch["scales"])[0]
    boxes = found["boxes"] / [scale_x, scale_y, scale_x, scale_y]
    boxes = np.clip(boxes, 0, [width, height] * 2)
    kept = (found["classes"] >= 0) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    return boxes[kept], found["classes"][kept], found["confidence"][kept]


# Each takes 15 to 30 seconds on an idle core, an ONNX file the longest.
QUICK = (("keras_hub_retinanet", run_litert),)


@pytest.mark.parametrize(
    ("name", "run"),
    [
        pytest.param(name, run, marks=() if (name, run) in QUICK else pytest.mark.slow)
        for name in tiny_detectors.COMPOSITIONS
        for run in (run_saved_model, run_onnx, run_litert)
    ],
)
def test_a_file_finds_what_predict_finds(name, run, pictures, tmp_path):
    model = tiny_detectors.COMPOSITIONS[name]()
    fit = DetectionPreprocessor((64, 64), mean=(0, 0, 0), std=(1, 1, 1))
    confidence = decoded(model, fit(pictures[0][None])["images"])["confidence"]
    model.prediction_decoder.confidence_threshold = float(confidence[30:32].mean())
    detect = run(model, tmp_path / "model")
    for image in pictures:
        found = detect(images=tf.constant(image[None], "float32"))
        found = {key: np.asarray(value)[0] for key, value in found.items()}
        boxes, labels, confidence = expected_in(model, fit(image[None]), image)
        assert 2 < found["num_detections"] == len(boxes) < 50
        assert (found["labels"][len(boxes) :] == -1).all()
        np.testing.assert_array_equal(found["labels"][: len(boxes)], labels)
        np.testing.assert_allclose(found["confidence"][: len(boxes)], confidence, atol=1e-5)
        np.testing.assert_allclose(found["boxes"][: len(boxes)], boxes, atol=0.05)


def test_a_file_of_keras_hub_is_detected_with_and_exported(pictures, tmp_path, monkeypatch):
    model = tiny_detectors.keras_hub_retinanet()
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = load_detector(path, hosted=True)
    found = image_detector(loaded.model)(pictures[0])
    fit = DetectionPreprocessor((64, 64), mean=(0, 0, 0), std=(1, 1, 1))
    boxes, labels, confidence = expected_in(model, fit(pictures[0][None]), pictures[0])
    np.testing.assert_array_equal(found["labels"], labels)
    np.testing.assert_allclose(found["boxes"], boxes, atol=0.01)
    np.testing.assert_allclose(found["confidence"], confidence, atol=1e-5)

    exported = []
    monkeypatch.setattr(export, "export_onnx", lambda *arguments: exported.append(arguments))
    output_of("export", path, "--out", tmp_path / "model.onnx", "--format", "onnx")
    ((sent, _, size),) = exported
    assert is_hosted(sent) and size is None
    with pytest.raises(ValueError, match="Received: a RetinaNetObjectDetector"):
        load_detector(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny_detectors.COMPOSITIONS)
def test_the_command_finds_the_classes_of_a_file(name, pictures, tmp_path):
    """In a process that has not imported these classes."""
    path, photo = tmp_path / "model.keras", tmp_path / "photo.png"
    tiny_detectors.COMPOSITIONS[name]().save(path)
    Image.fromarray(pictures[0]).save(photo)
    command = [sys.executable, "-m", "keras_dyhead.cli", "predict", photo, "--model", path]
    command += ["--score-threshold", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["images"][0]["detections"]) > 2


def test_detectors_of_other_packages_see_images_at_one_size():
    model = tiny_detectors.keras_hub_retinanet()
    with pytest.raises(ValueError, match="use only scale 1"):
        image_detector(model, TestTimeAugmentation())


def test_keras_hub_presets_define_how_images_are_normalized():
    """KerasHub computes `pixel * scale + offset`."""
    import keras_hub

    model = tiny_detectors.keras_hub_retinanet()
    converter = keras_hub.layers.RetinaNetImageConverter(scale=[0.5, 2.0, 4.0], offset=[1, 0, -3])
    model.preprocessor = keras_hub.models.RetinaNetObjectDetectorPreprocessor(converter)
    image = np.full((1, 64, 64, 3), 10, "uint8")
    values = HostedDetector(model).preprocessor(image)["images"]
    np.testing.assert_allclose(values[0, 0, 0], [6, 20, 37])


def test_what_cannot_be_exported_is_explained(tmp_path):
    model = tiny_detectors.keras_cv_yolov8()
    with pytest.raises(ValueError, match=r"\(64, 64\)"):
        export_saved_model(model, tmp_path / "model", image_size=(96, 96))
    import keras_cv

    model.prediction_decoder = keras_cv.layers.MultiClassNonMaxSuppression("xyxy", False)
    with pytest.raises(TypeError, match="NonMaxSuppression"):
        export_litert(model, tmp_path / "model")


def test_other_models_are_not_hosted_detectors():
    assert not is_hosted(keras.Sequential())
    assert not is_hosted(tiny_detectors.keras_cv_backbone())
