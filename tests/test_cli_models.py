"""`convert`, `evaluate`, `predict`, `pseudo-label` do what they say, and name bad input."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image
from published_weights import generated_weight, microsoft_tower
from safetensors.numpy import save_file
from typer.testing import CliRunner

from keras_dyhead import inference
from keras_dyhead.backbones import ResNetBackbone
from keras_dyhead.checkpoints import PUBLISHED, PublishedModel, load_checkpoint
from keras_dyhead.checkpoints.load_checkpoint import detector_parts
from keras_dyhead.cli import app
from keras_dyhead.coco import CocoAnnotations, coco_metrics, coco_results, load_coco
from keras_dyhead.coco.shapes import SHAPES, draw_shapes
from keras_dyhead.detectors import ATSS, DetectionDecoder, DetectionPreprocessor
from keras_dyhead.inference import evaluate_images, image_detector, read_rgb
from keras_dyhead.layers import DyHeadNeck, FeaturePyramid
from keras_dyhead.test_time_augmentation import TestTimeAugmentation
from keras_dyhead.visualization import draw_detections


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def complaint(*arguments):
    """The message of a command that must fail with exit code 2 and without a traceback."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    return " ".join(result.output.replace("│", " ").split())


@pytest.fixture(scope="module")
def model():
    """A detector that finds something everywhere, at sizes like the published ones but small."""
    keras.utils.set_random_seed(0)
    detector = ATSS(
        ResNetBackbone(18, base_channels=8),
        num_classes=len(SHAPES),
        neck=DyHeadNeck(1, 16),
        pyramid=FeaturePyramid(16, max_level=5),
        preprocessor=DetectionPreprocessor(min_side=64, max_side=96, pad_multiple=32),
        decoder=DetectionDecoder(score_threshold=0.0, max_detections=20),
        class_names=SHAPES,
    )
    for weight in detector.head.weights:  # as spread out as if trained
        weight.assign(keras.random.normal(weight.shape, stddev=0.5, seed=1))
    return detector


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A folder with the model, drawn images and their annotations, and images of other sizes."""
    path = tmp_path_factory.mktemp("cli")
    model.save(path / "model.keras")
    draw_shapes(path / "data", 3, image_size=64, empty_fraction=0).rename(path / "shapes.json")
    (path / "photos").mkdir()
    random = np.random.default_rng(0)
    for name, size in (
        ("wide.png", (40, 90, 3)),
        ("tall.jpg", (150, 70, 3)),
        ("grey.png", (64, 64)),
    ):
        small = random.integers(0, 255, (5, 5, *size[2:]), "uint8")
        Image.fromarray(small).resize(size[1::-1], Image.BILINEAR).save(path / "photos" / name)
    (path / "photos" / "notes.txt").write_text("no image")
    return path


def by_hand(model, image):
    """Preprocessing, model and decoding step by step, as the detectors' own methods do them."""
    batch = {key: np.asarray(v) for key, v in model.preprocessor(image[None]).items()}
    found = model.decode(model(batch["images"]), batch["image_sizes"])
    found = {key: np.asarray(value)[0] for key, value in found.items()}
    y_scale, x_scale = batch["scales"][0]
    return found | {"boxes": found["boxes"] / [x_scale, y_scale, x_scale, y_scale]}


def test_images_of_any_size_get_boxes_in_their_own_pixels(model, folder):
    detect = image_detector(model)
    for name in ("wide.png", "tall.jpg", "grey.png"):
        image = read_rgb(folder / "photos" / name)
        found, expected = detect(image), by_hand(model, image)
        count = expected["num_detections"]
        assert 1 < count == len(found["labels"])
        np.testing.assert_array_equal(found["labels"], expected["labels"][:count])
        np.testing.assert_allclose(found["boxes"], expected["boxes"][:count], atol=1e-3)
        np.testing.assert_allclose(found["confidence"], expected["confidence"][:count], atol=1e-5)
        height, width = image.shape[:2]
        assert found["boxes"].min() >= 0
        assert (found["boxes"].max(0) <= [width, height] * 2).all()


def test_evaluate_measures_what_evaluate_coco_measures(model, folder):
    """Two roads to pycocotools: one image at a time, and a data set of equal canvases."""
    images, annotations = folder / "data" / "images", folder / "shapes.json"
    result = invoke(
        *("evaluate", "--model", folder / "model.keras", "--images", images),
        *("--annotations", annotations, "--out", folder / "m.json", "--results", folder / "r.json"),
    )
    assert result.exit_code == 0, result.output
    record = json.loads((folder / "m.json").read_text())
    assert record["images_evaluated"] == 3 and record["class_names"] == list(SHAPES)
    fixed = keras.saving.load_model(folder / "model.keras")
    fixed.preprocessor = DetectionPreprocessor(image_size=(64, 64))
    dataset = load_coco(
        images, annotations, 3, (64, 64), preprocessor=fixed.preprocessor, class_names=SHAPES
    )
    found, expected = json.loads((folder / "r.json").read_text()), coco_results(fixed, dataset)
    assert len(found) == len(expected) > 10
    for one, other in zip(found, expected, strict=True):
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
        assert all(one[key] == other[key] for key in ("image_id", "category_id"))
    assert record["figures"] == coco_metrics(dataset.annotations.ground_truth(), expected)
    assert "AP50" in result.output


def test_detections_that_are_the_truth_score_one_whatever_the_category_ids(
    model, folder, monkeypatch
):
    content = json.loads((folder / "shapes.json").read_text())
    ids = {c["id"]: 90 - 7 * i for i, c in enumerate(content["categories"])}  # order reversed
    for record in content["categories"]:
        record["id"] = ids[record["id"]]
    for record in content["annotations"]:
        record["category_id"] = ids[record["category_id"]]
    path = folder / "renumbered.json"
    path.write_text(json.dumps(content))
    opened = CocoAnnotations(path, folder / "data" / "images", class_names=model.class_names)
    truths = iter(opened.images)

    def perfect(image):
        truth = next(truths)
        labels = truth.labels.astype("int32")
        return {"boxes": truth.boxes, "labels": labels, "confidence": np.ones(len(labels))}

    monkeypatch.setattr(inference, "image_detector", lambda model, tta: perfect)
    figures, results = evaluate_images(model, opened)
    assert figures["AP"] == 1 and set(results["category_id"].tolist()) <= set(ids.values())


@pytest.fixture
def views(monkeypatch):
    """Detections that follow from an image's size alone, and the augmentations asked for."""
    asked = []

    def image_detector(model, tta=None):
        asked.append(tta)
        return lambda image: {
            "boxes": np.array([[2, 3, 30, 40], [0, 0, *image.shape[1::-1]], [9, 9, 20, 30]], "f4"),
            "labels": np.array([0, image.shape[0] % 5, 2], "int32"),
            "confidence": np.array([0.9, 0.8, 0.4], "float32"),
        }

    monkeypatch.setattr(inference, "image_detector", image_detector)
    return asked


def test_evaluate_by_class_and_with_several_views(folder, views):
    images, annotations = folder / "data" / "images", folder / "shapes.json"
    arguments = ["evaluate", "--model", folder / "model.keras", "--images", images]
    arguments += ["--annotations", annotations]
    result = invoke(
        *(*arguments, "--out", folder / "m2.json", "--results", folder / "r2.json", "--per-class"),
        *("--tta-scales", "1,0.5", "--tta-merge", "nms"),
    )
    assert result.exit_code == 0, result.output
    assert views == [TestTimeAugmentation(scales=(1.0, 0.5), merge="nms")]
    record, found = (json.loads((folder / name).read_text()) for name in ("m2.json", "r2.json"))
    truth = CocoAnnotations(annotations, images, class_names=SHAPES).ground_truth()
    figures = coco_metrics(truth, found, per_class=True)
    assert record["per_class"] == figures.pop("per_class") and record["figures"] == figures
    assert record["tta"]["scales"] == [1.0, 0.5] and record["tta"]["merge"] == "nms"
    for entry in record["per_class"]:  # a row of the table for each
        (row,) = (line for line in result.output.splitlines() if f" {entry['name']} " in line)
        cells = row.replace("┃", "│").split("│")
        shown = "-" if entry["AP50"] < 0 else f"{entry['AP50']:.3f}"
        assert int(cells[2]) == entry["boxes"] and shown in cells[4]
    assert "must be numbers with commas" in complaint(*arguments, "--tta-scales", "big")
    assert "`merge` must be one of" in complaint(*arguments, "--tta", "--tta-merge", "mean")


def test_predict_takes_several_views(folder, views):
    command = ("predict", folder / "photos" / "tall.jpg", "--model", folder / "model.keras")
    assert invoke(*command, "--tta").exit_code == invoke(*command).exit_code == 0
    assert views == [TestTimeAugmentation(), None]


def test_pseudo_labels_of_a_folder(folder, views, tmp_path):
    out = tmp_path / "pseudo.json"
    (tmp_path / "own.json").write_text(json.dumps({SHAPES[0]: 0.95}))
    arguments = ["pseudo-label", "--model", folder / "model.keras", "--images", folder / "photos"]
    arguments += ["--out", out, "--class-thresholds", tmp_path / "own.json", "--tta"]
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    assert views == [TestTimeAugmentation()]
    opened = CocoAnnotations(out, folder / "photos", class_names=SHAPES)
    assert opened.problems == []
    found = {i.path.name: (i.boxes.tolist(), i.labels.tolist()) for i in opened.images}
    # Heights are 40, 150 and 64: in the first two the whole image is of the class 0.
    assert found == {"grey.png": ([[0, 0, 64, 64]], [4])}
    assert "1 boxes in 1 images, 2 images without" in result.output
    assert f"--images {folder / 'photos'} --annotations {out}" in result.output
    assert "exists: replace it with --overwrite" in complaint(*arguments)
    assert "go together" in complaint(*arguments, "--overwrite", "--merge", folder / "shapes.json")
    (tmp_path / "own.json").write_text(json.dumps({SHAPES[0]: 2}))
    assert "thresholds from 0 to 1" in complaint(*arguments, "--overwrite")


@pytest.mark.slow
def test_a_student_trains_on_real_and_pseudo_labels_with_the_command_that_is_told(folder, tmp_path):
    """From a labelled and an unlabelled folder to a trained model, by the commands alone."""
    shutil.copytree(folder / "data" / "images", tmp_path / "train")
    shutil.copytree(folder / "photos", tmp_path / "unlabelled")
    both = tmp_path / "both.json"
    result = invoke(
        *("pseudo-label", "--model", folder / "model.keras", "--images", tmp_path / "unlabelled"),
        *("--out", both, "--merge", folder / "shapes.json", "--merge-images", tmp_path / "train"),
        *("--threshold", 0.3),
    )
    assert result.exit_code == 0, result.output
    told = f"keras-dyhead train --images {tmp_path} --annotations {both}"
    assert told in result.output
    options = ["--out", tmp_path / "student", "--epochs", 1, "--image-size", 64]
    result = invoke(*told.split()[1:], *options, "--channels", 16, "--batch-size", 2)
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "student" / "metrics.json").read_text())
    assert metrics["images_evaluated"] == 6 and metrics["class_names"] == list(SHAPES)


def test_evaluate_names_what_does_not_fit(folder):
    arguments = ["evaluate", "--model", folder / "model.keras", "--images", folder / "photos"]
    (folder / "broken.json").write_text("{")
    message = complaint(*arguments, "--annotations", folder / "broken.json")
    assert "broken.json is not a JSON file" in message
    (folder / "names.txt").write_text("one\ntwo\n")
    arguments += ["--annotations", folder / "shapes.json", "--class-names", folder / "names.txt"]
    assert "The model has 5 classes. Received: 2 names" in complaint(*arguments)


def test_a_file_that_is_no_detector_is_named(folder, tmp_path):
    (tmp_path / "x.keras").write_bytes(b"no zip")
    message = complaint("predict", folder / "photos", "--model", tmp_path / "x.keras")
    assert "x.keras is no model that Keras can load" in message
    keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]).save(tmp_path / "dense.keras")
    message = complaint("predict", folder / "photos", "--model", tmp_path / "dense.keras")
    assert "dense.keras holds no keras_dyhead detector, but a Sequential" in message


def test_predict_writes_detections_and_pictures(model, folder, tmp_path):
    other = tmp_path / "wide.png"  # of the same name as another file
    Image.open(folder / "photos" / "wide.png").save(other)
    out, threshold = tmp_path / "found", 0.3
    result = invoke(
        *("predict", folder / "photos", other, "--model", folder / "model.keras"),
        *("--out", out, "--score-threshold", threshold),
    )
    assert result.exit_code == 0, result.output
    content = json.loads((out / "detections.json").read_text())
    names = [record["file"].split("/")[-1] for record in content["images"]]
    assert names == ["grey.png", "tall.jpg", "wide.png", "wide.png"] and content["errors"] == []
    pictures = ["detections.json", "grey.png", "tall.png", "wide.png", "wide_2.png"]
    assert sorted(path.name for path in out.iterdir()) == pictures
    for record, picture in zip(content["images"], pictures[1:], strict=True):
        image = read_rgb(record["file"])
        assert (record["height"], record["width"]) == image.shape[:2]
        expected = by_hand(model, image)
        confident = expected["confidence"] >= threshold
        assert 0 < confident.sum() == len(record["detections"])
        for i, detection in enumerate(record["detections"]):
            assert detection["label"] == expected["labels"][i]
            assert detection["name"] == SHAPES[detection["label"]]
            np.testing.assert_allclose(detection["box"], expected["boxes"][i], atol=0.02)
            assert detection["confidence"] == pytest.approx(expected["confidence"][i], abs=1e-4)
        drawn = np.asarray(Image.open(out / picture))
        assert drawn.shape == image.shape and (drawn != image).any()


def test_predict_prints_nothing_but_json_without_a_folder(folder, capsys):
    command = ["predict", folder / "photos" / "grey.png", "--model", folder / "model.keras"]
    app([str(x) for x in command] + ["--score-threshold", "0"], standalone_mode=False)
    (record,) = json.loads(capsys.readouterr().out)["images"]
    assert record["file"].endswith("grey.png") and len(record["detections"]) > 1


def test_broken_images_are_named_and_refused_or_skipped(folder, tmp_path):
    whole = (folder / "photos" / "tall.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "text.png").write_text("no image")
    arguments = [*(tmp_path / n for n in ("cut.jpg", "text.png", "none.png"))]
    arguments += [folder / "photos" / "grey.png", "--model", folder / "model.keras"]
    message = complaint("predict", *arguments, "--out", tmp_path / "out")
    assert all(f"{name} is no readable" in message for name in ("cut.jpg", "text.png"))
    assert "There is no file" in message and not (tmp_path / "out").exists()
    result = invoke("predict", *arguments, "--out", tmp_path / "out", "--on-error", "skip")
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [r["file"].split("/")[-1] for r in content["images"]] == ["grey.png"]
    assert [e["file"].split("/")[-1] for e in content["errors"]] == [
        *("cut.jpg", "text.png", "none.png")
    ]
    assert "no readable image among" in complaint(
        "predict", *arguments[:3], *arguments[4:], "--on-error", "skip"
    )
    assert "must be one of ('raise', 'skip')" in complaint("predict", *arguments, "--on-error", "x")


def test_drawn_boxes_lie_where_the_detections_are():
    image = np.zeros((60, 80, 3), "uint8")
    found = {
        "boxes": np.array([[20.0, 30, 50, 55], [0, 0, 10, 10], [60, 40, 70, 50]]),
        "labels": np.array([1, 0, -1]),
        "confidence": np.array([0.9, 0.2, 0.9]),
    }
    picture = np.asarray(draw_detections(image, found, ["a", "b"], score_threshold=0.3))
    assert picture[55, 20:51].any(-1).all() and picture[31:56, 50].any(-1).all()
    assert not picture[32:54, 22:49].any()  # only the frame is drawn
    assert not picture[:10, :10].any() and not picture[40:51, 60:71].any()


@pytest.fixture
def tiny(monkeypatch):
    """A published model that is small: its name, and its checkpoint with generated tensors."""
    record = PublishedModel(
        origin="microsoft",
        detector="atss",
        backbone="ResNetBackbone",
        backbone_arguments={"depth": 18, "base_channels": 8},
        neck={"num_blocks": 1, "channels": 16, "alignment": "published"},
        pyramid={"channels": 16},
        arguments={"head_kernel_size": 1},
        preprocessing={"min_side": 64, "max_side": 96, "channel_order": "BGR"},
        ap=1.5,
        source="https://example.org/tiny.pth",
    )
    monkeypatch.setitem(PUBLISHED, "tiny", record)
    state = microsoft_tower(16, 1, prefix="backbone.dyhead_tower.")
    for part in detector_parts(record.build(), record, state):
        for path, variable in part.weights.items():
            name, shape = part.tensor_name(path), tuple(variable.shape)
            if path.endswith("kernel") and len(shape) == 4:
                shape = (shape[3], shape[2], *shape[:2])
            state.setdefault(name, generated_weight(name, shape))
    return "tiny", state


def test_a_converted_model_computes_the_same_bits_without_pytorch(tiny, tmp_path):
    name, state = tiny
    source = tmp_path / "tiny.safetensors"
    save_file({key: np.ascontiguousarray(value) for key, value in state.items()}, source)
    result = invoke("convert", name, source, tmp_path / "new" / "tiny.keras")
    assert result.exit_code == 0 and "published with 1.5 AP" in " ".join(result.output.split())

    model = load_checkpoint(name, source)
    images = np.random.default_rng(0).normal(size=(1, 64, 96, 3)).astype("float32")
    np.save(tmp_path / "images.npy", images)
    code = """
import sys
sys.modules.update(dict.fromkeys(["torch", "safetensors"]))  # importing them fails
import keras, numpy as np, keras_dyhead
_, path, images, out = sys.argv
model = keras.saving.load_model(path)
raw = model(np.load(images))
np.savez(out, order=model.preprocessor.channel_order, name=model.class_names[79], **raw)
"""
    paths = tmp_path / "new" / "tiny.keras", tmp_path / "images.npy", tmp_path / "raw.npz"
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=True)
    found = np.load(tmp_path / "raw.npz")
    assert found["order"] == "BGR" and found["name"] == "toothbrush"
    for key, value in model(images).items():
        np.testing.assert_array_equal(found[key], value)


def test_convert_refuses_to_overwrite_and_names_what_is_wrong(tiny, tmp_path):
    source, out = tmp_path / "x.pth", tmp_path / "x.keras"
    source.write_text("<!DOCTYPE html>")
    assert "x.pth is a web page" in complaint("convert", "tiny", source, out)
    assert "`name` must be one of" in complaint("convert", "unknown", source, out)
    assert "must end in .keras" in complaint("convert", "tiny", source, tmp_path / "x.h5")
    assert "There is no file" in complaint("convert", "tiny", tmp_path / "none.pth", out)
    assert "are needed" in complaint("convert", "tiny")
    out.write_text("mine")
    assert "exists: replace it with --overwrite" in complaint("convert", "tiny", source, out)
    assert out.read_text() == "mine"


def test_convert_lists_the_published_models():
    result = invoke("convert", "list")
    assert result.exit_code == 0
    for name, record in PUBLISHED.items():
        assert name in result.output and record.source in result.output
        assert f"{record.ap} AP" in result.output


@pytest.mark.parametrize("command", ["convert", "evaluate", "predict", "pseudo-label"])
def test_help_shows_examples(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0 and f"keras-dyhead {command} " in result.output
