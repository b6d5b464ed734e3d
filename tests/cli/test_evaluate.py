"""`keras-dyhead evaluate` agrees with `evaluate_coco` and reports bad input."""

import json

import pytest
from cli.commands import complaint, output_of
from PIL import Image
from small_detector import by_hand

from keras_dyhead import inference
from keras_dyhead.coco import SHAPES, CocoAnnotations, coco_metrics
from keras_dyhead.coco.detections import xywh_boxes
from keras_dyhead.inference import TestTimeAugmentation, Tiles, read_rgb


@pytest.fixture
def arguments(folder):
    command = ["evaluate", "--model", folder / "model.keras"]
    return [*command, "--images", folder / "data" / "images"]


def test_the_metrics_are_those_of_the_models_detections(small_model, eager, arguments, folder):
    arguments += ["--annotations", folder / "shapes.json"]
    told = output_of(*arguments, "--out", folder / "m.json", "--results", folder / "r.json")
    opened = CocoAnnotations(folder / "shapes.json", folder / "data" / "images")
    assert opened.class_names == list(SHAPES)
    found, expected = json.loads((folder / "r.json").read_text()), []
    for image in opened.images:
        for box, label, score in zip(
            *by_hand(small_model, read_rgb(image.path)).values(), strict=True
        ):
            box = xywh_boxes(box.clip(0, 64)).tolist()
            record = {"image_id": image.id, "category_id": int(label) + 1, "bbox": box}
            if min(box[2:]) > 0:
                expected.append(record | {"score": float(score)})
    assert len(found) == len(expected) > 10
    for one, other in zip(found, expected, strict=True):
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-3)
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
        assert all(one[key] == other[key] for key in ("image_id", "category_id"))
    record = json.loads((folder / "m.json").read_text())
    result = coco_metrics(opened.ground_truth(), found)
    assert record["figures"] == result.figures and record["per_class"] == result.per_class
    assert record["images_evaluated"] == 3 and record["class_names"] == list(SHAPES)
    assert "AP50" in told


def test_ids_in_results_are_spelled_as_in_the_annotations(arguments, folder):
    content = json.loads((folder / "shapes.json").read_text())
    for record in content["images"] + content["categories"]:
        record["id"] = str(record["id"])
    (folder / "text.json").write_text(json.dumps(content))
    output_of(*arguments, "--annotations", folder / "text.json", "--results", folder / "r3.json")
    found = json.loads((folder / "r3.json").read_text())
    for key, records in (("image_id", content["images"]), ("category_id", content["categories"])):
        assert {r[key] for r in found} <= {r["id"] for r in records}


def test_metrics_per_class_with_several_views_and_tiles(arguments, folder, views):
    arguments += ["--annotations", folder / "shapes.json"]
    out = ["--out", folder / "m2.json", "--results", folder / "r2.json", "--per-class"]
    tiles = ["--tile", 64, "--overlap", 0.3]
    told = output_of(*arguments, *out, "--tta-scales", "1,0.5", "--tta-merge", "nms", *tiles)
    assert views == [TestTimeAugmentation(scales=(1.0, 0.5), merge="nms"), Tiles(64, 0.3)]
    record, found = (json.loads((folder / name).read_text()) for name in ("m2.json", "r2.json"))
    truth = CocoAnnotations(folder / "shapes.json", class_names=SHAPES).ground_truth()
    expected = coco_metrics(truth, found)
    assert record["per_class"] == expected.per_class and record["figures"] == expected.figures
    assert record["tta"]["scales"] == [1.0, 0.5] and record["tta"]["merge"] == "nms"
    assert record["tiles"] == {"size": 64, "overlap": 0.3}
    for entry in record["per_class"]:  # each has a row in the table
        cells = told.split(f" {entry['name']} ")[1].replace("┃", "│").split("│")
        shown = "-" if entry["AP50"] < 0 else f"{entry['AP50']:.3f}"
        assert int(cells[1]) == entry["boxes"] and shown in cells[3]


def test_names_and_problems_with_brackets_are_printed(arguments, folder, views):
    content = json.loads((folder / "shapes.json").read_text())
    names = [f"{category['name']} [/s] :+1:" for category in content["categories"]]
    for category, name in zip(content["categories"], names, strict=True):
        category["name"] = name
    content["images"][0]["file_name"] += " [red]"
    (folder / "odd [1].json").write_text(json.dumps(content))
    (folder / "names [b].txt").write_text("\n".join(names))
    odd = ["--annotations", folder / "odd [1].json", "--class-names", folder / "names [b].txt"]
    out = ["--out", folder / "figures [b].json", "--per-class", "--on-error", "skip"]
    out += ["--plots", folder / "plots"]
    (folder / "plots").mkdir()
    (folder / "plots" / "confusion.png").write_text("mine")
    assert "confusion.png already exists" in complaint(*arguments, *odd, *out)
    told = output_of(*arguments, *odd, *out, "--overwrite")
    assert all(name in told for name in names) and "figures [b].json" in told
    assert ".jpg [red]" in told
    for name in ("confusion.png", "precision_recall.png"):
        with Image.open(folder / "plots" / name) as picture:
            assert min(picture.size) > 500


@pytest.mark.parametrize("option", ["--out", "--results"])
def test_figures_and_detections_never_replace_the_annotations(arguments, folder, views, option):
    before = (folder / "shapes.json").read_bytes()
    arguments += ["--annotations", folder / "shapes.json", option, folder / "shapes.json"]
    assert "would replace an input" in complaint(*arguments)
    assert (folder / "shapes.json").read_bytes() == before
    both = ["--out", folder / "one.json", "--results", folder / "one.json"]
    assert "would replace an input or output" in complaint(*arguments[:-2], *both)


def test_class_names_from_windows_files_match_the_categories(arguments, folder, views):
    text = "\r\n".join([*SHAPES, "", ""])
    (folder / "bom.txt").write_text(text, encoding="utf-8-sig", newline="")
    arguments += ["--annotations", folder / "shapes.json", "--class-names", folder / "bom.txt"]
    assert "not a category of the file" not in output_of(*arguments, "--out", folder / "m3.json")
    record = json.loads((folder / "m3.json").read_text())
    assert record["class_names"] == list(SHAPES) and record["problems"] == []


def test_more_detections_and_other_sizes_are_counted_on_request(
    arguments, folder, views, small_model, monkeypatch
):
    monkeypatch.setattr(small_model, "_decoder", small_model.decoder)
    arguments += ["--annotations", folder / "shapes.json", "--out", folder / "m4.json"]
    told = output_of(*arguments, "--max-detections", 300, "--size-limits", 16, 24)
    assert small_model.decoder.max_detections == 300
    assert "AR300" in told and "recall, 300 detections" in told and "up to 16² px" in told
    record = json.loads((folder / "m4.json").read_text())
    assert (record["max_detections"], record["size_limits"]) == (300, [16, 24])
    assert record["figures"]["AR300"] >= 0 and "AR100" not in record["figures"]


def renamed(folder, name, categories):
    content = json.loads((folder / "shapes.json").read_text())
    content["categories"] = [{"id": i, "name": n} for i, n in enumerate(categories, start=1)]
    (folder / name).write_text(json.dumps(content))
    return folder / name


def test_categories_that_the_model_lacks_are_refused_or_left_out(arguments, folder, views):
    arguments += ["--class-names", folder / "names5.txt"]
    (folder / "names5.txt").write_text("\n".join(SHAPES))
    none = renamed(folder, "none.json", ["a", "b", "c", "d", "e"])
    for extra in ([], ["--on-error", "skip"]):
        assert "has no class in common" in complaint(*arguments, "--annotations", none, *extra)
    some = renamed(folder, "some.json", [*list(SHAPES)[:4], "whale"])
    told = complaint(*arguments, "--annotations", some)
    assert "has categories that the model lacks: ['whale']" in told
    output_of(*arguments, "--annotations", some, "--on-error", "skip")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--tta-scales", "big"], "must be numbers separated by commas"),
        (["--tta", "--tta-merge", "mean"], "'mean' is not one of 'vote', 'nms'"),
        (["--tta-merge", "nms"], "--tta-merge needs --tta"),
        (["--overlap", "0.5"], "--overlap needs --tile"),
        (["--on-error", "x"], "'x' is not one of 'raise', 'skip'"),
        (["--class-names", "names.txt"], "The model has 5 classes. Received: 2 names"),
        (["--annotations", "broken.json"], "broken.json is not a JSON file"),
        (["--size-limits", "96", "32"], "`size_limits` must be two ascending lengths"),
        (["--out", "photos"], "'photos' is a directory"),
        (["--results", "photos"], "'photos' is a directory"),
        (["--out", "names.txt/m.json"], "names.txt"),
        (["--plots", "names.txt"], "'names.txt' is a file"),
    ],
)
def test_bad_input_is_named(arguments, folder, views, monkeypatch, options, message):
    monkeypatch.chdir(folder)
    (folder / "broken.json").write_text("{")
    (folder / "names.txt").write_text("one\ntwo\n")
    detected = []
    detect = inference.image_detector(None)
    monkeypatch.setattr(
        inference, "image_detector", lambda *_: lambda image: detected.append(1) or detect(image)
    )
    assert message in complaint(*arguments, "--annotations", folder / "shapes.json", *options)
    assert not detected  # errors come first


def test_figures_that_cannot_be_written_are_printed(arguments, folder, views, tmp_path):
    (tmp_path / "m.json").symlink_to("/dev/full")
    arguments += ["--annotations", folder / "shapes.json", "--out", tmp_path / "m.json"]
    told = complaint(*arguments, "--overwrite")
    assert "mean over IoU 0.50 to 0.95" in told and "No space left on device" in told
