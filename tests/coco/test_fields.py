"""Unusual spellings in annotation files are read without losing boxes."""

import json
import re
import unicodedata
from urllib.parse import quote

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_dyhead.coco import (
    CocoAnnotations,
    coco_metrics,
    evaluate_coco,
    fields,
    load_coco,
    write_detections,
)


def each(records, **changes):
    """Replaces fields of records by functions of the record. `None` removes the field."""
    for record in records:
        for key, change in changes.items():
            if change is None:
                record.pop(key)
            else:
                record[key] = change(record)


READABLE = {
    "crowd flags as text": lambda c: each(c.annotations, iscrowd=lambda a: "0"),
    "crowd flags as words": lambda c: each(c.annotations, iscrowd=lambda a: "False"),
    "crowd flags as bools": lambda c: each(c.annotations, iscrowd=lambda a: False),
    "crowd flags as floats": lambda c: each(c.annotations, iscrowd=lambda a: 0.0),
    "crowd flags null": lambda c: each(c.annotations, iscrowd=lambda a: None),
    "crowd flags absent": lambda c: each(c.annotations, iscrowd=None),
    "areas as text": lambda c: each(c.annotations, area=lambda a: "12.0"),
    "areas absent": lambda c: each(c.annotations, area=None),
    "boxes as text": lambda c: each(c.annotations, bbox=lambda a: [str(v) for v in a["bbox"]]),
    "annotation ids all 0": lambda c: each(c.annotations, id=lambda a: 0),
    "annotation ids absent": lambda c: each(c.annotations, id=None),
    "annotation ids as text": lambda c: each(c.annotations, id=lambda a: f"a{a['id']}"),
    "image ids as floats": lambda c: each(c.images, id=lambda i: float(i["id"])),
    "image ids as numbers in text": lambda c: each(c.images, id=lambda i: str(i["id"])),
    "image ids with zeros before them": lambda c: each(c.images, id=lambda i: f"00{i['id']}"),
    "image ids of boxes with zeros": lambda c: each(
        c.annotations, image_id=lambda a: f"{a['image_id']:012d}"
    ),
    "category ids of boxes with zeros": lambda c: each(
        c.annotations, category_id=lambda a: f"{a['category_id']:02d}"
    ),
    "sizes as floats": lambda c: each(c.images, width=lambda i: float(i["width"])),
    "sizes as text": lambda c: each(c.images, height=lambda i: str(i["height"])),
    "sizes -1": lambda c: each(c.images, width=lambda i: -1, height=lambda i: -1),
    "sizes 0": lambda c: each(c.images, width=lambda i: 0, height=lambda i: 0),
    "sizes null": lambda c: each(c.images, width=lambda i: None, height=lambda i: None),
    "sizes absent": lambda c: each(c.images, width=None, height=None),
    "file names with ./": lambda c: each(c.images, file_name=lambda i: "./" + i["file_name"]),
    "file names with /": lambda c: each(c.images, file_name=lambda i: "/" + i["file_name"]),
    "file names with .\\": lambda c: each(c.images, file_name=lambda i: ".\\" + i["file_name"]),
    "file names absolute": lambda c: each(
        c.images, file_name=lambda i: str(c.folder / i["file_name"])
    ),
    "file names as URIs": lambda c: each(
        c.images, file_name=lambda i: (c.folder / i["file_name"]).as_uri()
    ),
    "category ids as text": lambda c: each(c.categories, id=lambda k: str(k["id"])),
    "a root category": lambda c: c.categories.insert(0, {"id": 0, "name": "dog"}),
    "a category listed twice": lambda c: c.categories.append(dict(c.categories[0])),
    "an image listed twice": lambda c: c.images.append(dict(c.images[0])),
    "a box listed twice": lambda c: c.annotations.append(dict(c.annotations[0])),
    "ids with spaces": lambda c: each(c.images, id=lambda i: f" {i['id']}\n"),
    "file names with a newline": lambda c: each(
        c.images, file_name=lambda i: i["file_name"] + "\n"
    ),
}


@pytest.fixture
def two(coco, noise):
    """Two images of 30x20 and 20x30, a dog in each and a cat in the second."""
    first, second = coco.add_image(noise(20, 30)), coco.add_image(noise(30, 20))
    coco.add_box(first, [1, 2, 3, 4], 3)
    coco.add_box(second, [2, 3, 4, 5], 7)
    coco.add_box(second, [9, 3, 5, 4], 3)
    return coco


def assert_all_there(annotations):
    assert annotations.class_names == ["dog", "cat"]
    assert [(i.height, i.width) for i in annotations.images] == [(20, 30), (30, 20)]
    assert [i.labels.tolist() for i in annotations.images] == [[0], [1, 0]]
    boxes = [image.boxes.tolist() for image in annotations.images]
    assert boxes == [[[1, 2, 4, 6]], [[2, 3, 6, 8], [9, 3, 14, 7]]]
    truth = annotations.ground_truth()
    keys = ("image_id", "category_id", "bbox")
    perfect = [{k: a[k] for k in keys} | {"score": 0.9} for a in truth["annotations"]]
    assert coco_metrics(truth, perfect).figures["AP"] == pytest.approx(1.0)
    assert len({a["id"] for a in truth["annotations"]}) == 3


@pytest.mark.filterwarnings("ignore:.*has 1 problem. 0 left out")
@pytest.mark.parametrize("change", READABLE)
def test_unambiguous_values_are_read(two, change):
    READABLE[change](two)
    assert_all_there(CocoAnnotations(two.write(), two.folder))
    assert_all_there(CocoAnnotations(two.json, two.folder, verify=False))


@pytest.mark.parametrize("side", [10**30, -1, 30.5])
def test_impossible_sides_are_reported_without_image_files(two, side):
    two.images[0]["width"] = side
    with pytest.raises(ValueError, match="are not positive integers"):
        CocoAnnotations(two.write())


@pytest.mark.parametrize("area", [-12.0, float("nan"), float("inf"), "large", [1], True])
def test_an_invalid_area_is_reported_and_replaced_by_that_of_the_box(two, area):
    each(two.annotations[:1], area=lambda a: area)
    with pytest.warns(UserWarning, match="annotation 1: its area .* is invalid"):
        annotations = CocoAnnotations(two.write(), two.folder)
    assert_all_there(annotations)
    assert annotations.ground_truth()["annotations"][0]["area"] == 12


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_byte_order_marks_and_other_encodings_are_read(two, tmp_path, encoding):
    two.categories[0]["name"] = "Katze äöü"
    two.write().write_text(json.dumps({**json.loads(two.json.read_text())}), encoding=encoding)
    assert CocoAnnotations(two.json, two.folder).class_names == ["dog", "Katze äöü"]
    names = tmp_path / "names.txt"
    names.write_text("Hund \r\nKatze äöü\r\n\r\n", encoding=encoding, newline="")
    assert fields.read_lines(names) == ["Hund", "Katze äöü"]


def test_a_file_of_names_that_is_not_text_is_named(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match="names.txt is not text in UTF-8"):
        fields.read_lines(tmp_path / "names.txt")


@pytest.mark.parametrize(
    "ids", [lambda i: f"img_{i}", lambda i: 2**70 + i, lambda i: f"00{i}", str, lambda i: f" {i}"]
)
def test_text_ids_and_ids_beyond_int64_work_everywhere(two, ids):
    each(two.images, id=lambda i: ids(i["id"]))
    each(two.annotations, image_id=lambda a: ids(a["image_id"]))
    each(two.categories, id=lambda k: ids(k["id"]))
    each(two.annotations, category_id=lambda a: ids(a["category_id"]))
    annotations = CocoAnnotations(two.write(), two.folder)
    assert_all_there(annotations)
    assert [image.id for image in annotations.images] == [ids(1), ids(2)]
    dataset = load_coco(two.folder, two.json, image_size=(30, 30))
    assert [t["image_id"].numpy().tolist() for _, t in dataset] == [[1, 2]]
    assert dataset.image_ids(0, 0) == [ids(1), ids(2)]

    image = annotations.images[1]
    found = {"boxes": image.boxes, "labels": image.labels, "confidence": np.ones(2, "float32")}
    by_files = evaluate_coco(lambda pixels: found, annotations, verbose=0)
    by_batches = evaluate_coco(Constant(found), dataset, verbose=0)
    assert by_files.detections["image_id"].tolist() == [ids(1)] * 2 + [ids(2)] * 2
    assert by_files.per_class[0]["category_id"] == ids(3)
    written = two.folder / "results.json"
    write_detections(by_batches.detections, written)
    results = json.loads(written.read_text())
    assert {result["image_id"] for result in results} == {ids(1), ids(2)}
    again = coco_metrics(json.loads(two.json.read_text()), results)
    assert again.figures == by_files.figures == by_batches.figures
    assert 0 < again.figures["AP"] < 1


def test_ids_keep_their_spelling_and_numeric_order(coco, noise):
    """An id may be spelled in several ways in one file."""
    first, second = coco.add_image(noise(20, 30), id="10"), coco.add_image(noise(30, 20), id=" 9")
    coco.categories = [{"id": i, "name": f"class {i}"} for i in ("10", "007", "2", 3.0)]
    coco.add_box(10, [1, 2, 3, 4], 2, id="5")
    coco.add_box("9", [1, 2, 3, 4], "3")
    coco.add_box(9.0, [1, 2, 3, 4], 7)
    annotations = CocoAnnotations(coco.write(), coco.folder)
    assert annotations.category_ids == ["2", 3, "10", "007"]
    images = [(i.id, i.number, i.labels.tolist()) for i in annotations.images]
    assert images == [(first, 10, [0]), (second, 9, [1, 3])]
    assert annotations.labels_of([10, "7", "3", 2.0]) == [2, 3, 1, 0]
    truth = annotations.ground_truth([10])
    assert [record["id"] for record in truth["images"]] == ["10"]
    (record,) = truth["annotations"]
    assert [record[key] for key in ("id", "image_id", "category_id")] == ["5", "10", "2"]
    with pytest.warns(UserWarning, match="class 'bird'"):
        more = CocoAnnotations(coco.json, class_names=["bird", "class 2"])
    assert more.category_ids == [11, "2"]


class Constant(keras.Model):
    """Finds the same objects in every image."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def predict(self, dataset, verbose):
        (images,) = dataset
        found = self.found | {"num_detections": np.array(len(self.found["labels"]))}
        return {key: np.stack([value] * len(images)) for key, value in found.items()}


def test_ragged_targets_are_evaluated(two):
    """As in datasets of KerasCV."""
    annotations = CocoAnnotations(two.write(), two.folder)
    rows = [image.boxes for image in annotations.images]
    labels = [image.labels for image in annotations.images]
    lengths = [len(row) for row in rows]
    targets = {
        key: tf.RaggedTensor.from_row_lengths(np.concatenate(values), lengths)
        for key, values in (("boxes", rows), ("classes", labels))
    }
    dataset = tf.data.Dataset.from_tensors((np.zeros((2, 32, 32, 3), "float32"), targets))
    found = {
        "boxes": np.concatenate(rows),
        "labels": np.concatenate(labels),
        "confidence": np.array([0.1, 0.9, 0.8]),
    }
    result = evaluate_coco(Constant(found), dataset, verbose=0)
    assert [record["boxes"] for record in result.per_class] == [2, 1]
    # Each dog is found once, and the box of the other dog is a false alarm in its image.
    assert result.per_class[1]["AP"] == pytest.approx(0.5, abs=0.01)


def test_names_are_stripped_text(two):
    two.categories[0]["name"], two.categories[1]["name"] = 5, " dog\n"
    assert CocoAnnotations(two.write()).class_names == ["dog", "5"]
    assert CocoAnnotations(two.json, class_names=[5, "dog"]).class_names == ["5", "dog"]


def test_names_are_the_same_with_composed_accents_and_without_a_byte_order_mark(two):
    two.categories[0]["name"], two.categories[1]["name"] = "cafe\u0301", "\ufeffdog"
    names = ["caf\u00e9", "dog"]
    annotations = CocoAnnotations(two.write(), class_names=names)
    assert annotations.class_names == names and not annotations.problems


@pytest.mark.parametrize(
    "spell",
    [
        lambda folder, name: name.replace(" ", "%20").replace("/", "\\"),
        lambda folder, name: unicodedata.normalize("NFD", name),  # as macOS composes it
        lambda folder, name: unicodedata.normalize("NFC", name),
        lambda folder, name: quote(unicodedata.normalize("NFC", name)),
        lambda folder, name: quote("/" + unicodedata.normalize("NFD", name) + "\n", safe=""),
        lambda folder, name: ".\\" + quote(unicodedata.normalize("NFC", name)).replace("/", "\\"),
        lambda folder, name: (folder / unicodedata.normalize("NFC", name)).as_uri(),
        lambda folder, name: f"{folder.name}\\{name.replace('.png', '.PNG')}",
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_spellings_of_file_names_by_other_systems(two, spell, form):
    (two.folder / "a b").mkdir()
    for record, name in zip(two.images, ("a b/é.png", "a b/ü.png"), strict=True):
        name = unicodedata.normalize(form, name)
        (two.folder / record["file_name"]).rename(two.folder / name)
        record["file_name"] = spell(two.folder, name)
    assert_all_there(CocoAnnotations(two.write(), two.folder))


@pytest.mark.parametrize("name", ["1.png", "./1.png", "../images/1.png", ".\\1.png", "link.png"])
def test_two_images_of_one_file_are_reported_and_kept(two, name):
    (two.folder / "link.png").symlink_to("1.png")
    two.add_box(two.add_image((20, 30), name), [4, 4, 5, 5])
    report = f"image 3 ({name}): has the same file as image 1 (1.png)"
    with pytest.warns(UserWarning, match="1 problem: 0 left out, 1 kept.*\n.*" + re.escape(report)):
        annotations = CocoAnnotations(two.write(), two.folder)
    assert [len(image.boxes) for image in annotations.images] == [1, 2, 1]
    if "images" in name or "link" in name:  # only the files tell
        assert CocoAnnotations(two.json).problems == []
    else:
        with pytest.warns(UserWarning, match=re.escape(report)):
            CocoAnnotations(two.json)


def test_an_image_beyond_pillows_limit_is_opened(two, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert_all_there(CocoAnnotations(two.write(), two.folder))
