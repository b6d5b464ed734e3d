"""Every script of `examples` does what its first lines say, on tiny images."""

import json
import re
import runpy
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
from PIL import Image

from keras_dyhead.coco import SHAPES, draw_shapes
from keras_dyhead.detectors import ATSS, DetectionDecoder, DetectionPreprocessor
from keras_dyhead.export import export_onnx, export_saved_model
from keras_dyhead.inference import image_detector, read_rgb
from keras_dyhead.layers import DyHeadNeck, FeaturePyramid

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZE = (64, 64)


def run(monkeypatch, name, *arguments):
    """Runs a script like `python examples/NAME` in this process; returns its globals."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def start(name, *arguments, without, **options):
    """Starts a script in a process where some packages cannot be imported."""
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({without!r})); "
        f"runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    code = f"import sys; sys.argv = sys.argv[1:]; {code}"
    command = [sys.executable, "-c", code, EXAMPLES / name, *arguments]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four drawings with annotations of the five shapes."""
    folder = tmp_path_factory.mktemp("shapes")
    draw_shapes(folder, 4, 64, max_shapes=2, size_range=(16, 40), empty_fraction=0, clutter=0)
    return folder


def small_detector(num_blocks):
    """A detector of three classes that finds something everywhere."""
    keras.utils.set_random_seed(0)
    images = x = keras.Input((None, None, 3))
    maps = {}
    for level, strides in (("P3", 8), ("P4", 2)):
        maps[level] = x = keras.layers.Conv2D(16, 9, strides, "same", activation="relu")(x)
    detector = ATSS(
        keras.Model(images, maps),
        num_classes=3,
        neck=DyHeadNeck(num_blocks, 16) if num_blocks else None,
        pyramid=FeaturePyramid(16, max_level=4),
        preprocessor=DetectionPreprocessor(image_size=SIZE),
        decoder=DetectionDecoder(score_threshold=0.0, max_detections=5),
        class_names=["cat", "dog", "müsli"],
    )
    for weight in detector.head.weights:  # as spread out as if trained
        weight.assign(keras.random.normal(weight.shape, stddev=0.5, seed=1))
    return detector


@pytest.fixture(scope="module")
def model():
    return small_detector(num_blocks=1)


@pytest.fixture(scope="module")
def plain():
    """A SavedModel without DyHead, which makes no difference to a server."""
    return small_detector(num_blocks=0)


@pytest.fixture(scope="module")
def image(data):
    return sorted((data / "images").iterdir())[0]


@pytest.mark.slow
def test_a_detector_is_fine_tuned_on_your_data_and_saved(model, data, tmp_path, monkeypatch):
    model.save(tmp_path / "trained.keras")
    run(
        monkeypatch,
        "finetune_own_data.py",
        *("--model", tmp_path / "trained.keras", "--images", data / "images"),
        *("--annotations", data / "instances.json", "--out", tmp_path / "mine.keras"),
        *("--image-size", 96, "--epochs", 1),
    )
    mine = keras.saving.load_model(tmp_path / "mine.keras")
    assert mine.class_names == SHAPES and mine.preprocessor.image_size == (96, 96)
    before, after = (m.neck.get_weights() for m in (model, mine))
    steps = [np.abs(a - b).max() for a, b in zip(before, after, strict=True)]
    assert 0 < max(steps) < 1e-3  # from the trained weights, one step of 1e-4


def test_a_saved_model_is_served_without_keras(plain, image, tmp_path):
    export_saved_model(plain, tmp_path / "model", SIZE)
    absent = ["keras", "keras_cv", "keras_dyhead", "keras_hub", "tf_keras"]
    server = start("serve_http.py", tmp_path / "model", "--port", 0, without=absent)
    try:
        address = server.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), server.stderr.read()
        with urllib.request.urlopen(address, data=image.read_bytes(), timeout=60) as response:
            assert response.headers["Content-Type"] == "application/json"
            records = json.loads(response.read())
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(address, data=b"no image", timeout=60)
        with pytest.raises(urllib.error.HTTPError, match="413"):
            urllib.request.urlopen(address, data=b"", timeout=60)
    finally:
        server.kill()
        server.communicate()
    found = image_detector(plain)(read_rgb(image))
    assert len(records) == len(found["labels"]) == 5
    for i, record in enumerate(records):
        assert record["label"] == found["labels"][i]
        assert record["name"] == plain.class_names[record["label"]]
        assert record["confidence"] == pytest.approx(found["confidence"][i], abs=1e-5)
        assert record["box"] == pytest.approx(found["boxes"][i], abs=0.01)


def test_an_onnx_file_is_run_without_tensorflow(plain, image, tmp_path):
    export_onnx(plain, tmp_path / "model.onnx", SIZE)
    absent = ["keras", "keras_dyhead", "tensorflow", "torch"]
    deep = tmp_path / "16 bits.png"
    Image.fromarray(257 * read_rgb(image)[..., 0].astype("uint16")).save(deep)
    process = start("onnx_inference.py", tmp_path / "model.onnx", image, deep, without=absent)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    lines = []
    for file in (image, deep):
        found = image_detector(plain)(read_rgb(file))
        lines.append(f"{file}: 64 x 64 pixels")
        objects = zip(found["labels"], found["confidence"], found["boxes"], strict=True)
        for label, score, box in objects:
            if score >= 0.3:
                sides = " ".join(f"{side:.1f}" for side in box)
                lines.append(f"  {score:.3f}  {plain.class_names[label]}  {sides}")
    assert len(lines) > 3

    def numbers(lines):
        return [[float(x) for x in re.findall(r"-?\d+\.\d+", line)] for line in lines]

    assert [re.sub(r"-?\d+\.\d+", "", line) for line in output.splitlines()] == [
        re.sub(r"-?\d+\.\d+", "", line) for line in lines
    ]
    for one, other in zip(numbers(output.splitlines()), numbers(lines), strict=True):
        assert one == pytest.approx(other, abs=0.11)  # rounded to tenths of a pixel


@pytest.mark.slow
def test_a_preset_of_keras_hub_trains_with_its_own_normalization(data, tmp_path, monkeypatch):
    backbone = keras_hub.models.ResNetBackbone(
        [64], [3], [64, 16, 16, 16], [1, 1, 1, 1], [1, 2, 2, 2], "basic_block"
    )
    backbone.save_to_preset(tmp_path / "preset")
    converter = keras_hub.layers.ResNetImageConverter(
        scale=[0.017, 0.018, 0.019], offset=[-2.1, -2.0, -1.8]
    )
    converter.save_to_preset(tmp_path / "preset")
    run(
        monkeypatch,
        "keras_hub_backbone.py",
        *("--preset", tmp_path / "preset", "--images", data / "images"),
        *("--annotations", data / "instances.json", "--out", tmp_path / "mine.keras"),
        *("--image-size", 64, "--num-blocks", 0, "--channels", 16, "--epochs", 1),
    )
    model = keras.saving.load_model(tmp_path / "mine.keras")
    assert isinstance(model.backbone, keras_hub.models.ResNetBackbone)
    assert model.class_names == SHAPES and model.neck is None
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(model.preprocessor.normalize(pixels), converter(pixels), atol=1e-4)


@pytest.mark.slow
def test_a_custom_detector_learns_and_is_evaluated(data, tmp_path, monkeypatch):
    keras.utils.set_random_seed(0)
    script = run(
        monkeypatch,
        "custom_detector.py",
        *("--images", data / "images", "--annotations", data / "instances.json"),
        *("--out", tmp_path / "mine", "--side", 64, "--epochs", 10),
    )
    history = script["model"].history.history
    assert history["loss"][-1] < 0.6 * history["loss"][0]
    assert history["val_AP50"][-1] >= 0  # -1 if not measured; 60 epochs reach 0.7
    assert (tmp_path / "mine.weights.h5").exists()
