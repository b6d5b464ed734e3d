"""Pseudo labels become a COCO dataset, also after interruptions or merged with a real one."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from keras_dyhead.coco import CocoAnnotations, load_coco
from keras_dyhead.inference import PseudoLabels

CLASSES = ("cat", "dog", "bird")
# The detections of the teacher by gray value of the image: box, label, confidence.
FOUND = {
    10: [([1.004, 2, 21, 12], 0, 0.9), ([5, 5, 30, 30], 1, 0.4)],
    20: [([0, 0, 8, 8], 1, 0.3)],
    30: [([2, 2, 40, 30], 1, 0.7), ([3, 3, 9, 9], 2, 0.55), ([4, 4, 4.001, 9], 0, 0.99)],
    40: [([0, 0, 48, 32], 2, 0.8)],
}


class Teacher:
    """Recognizes images by their gray value. One of its calls may be interrupted."""

    def __init__(self, interrupted_at=None):
        self.interrupted_at = interrupted_at
        self.seen = []

    def __call__(self, image):
        if len(self.seen) == self.interrupted_at:
            raise KeyboardInterrupt
        self.seen.append(int(image[0, 0, 0]))
        boxes, labels, scores = zip(*FOUND[self.seen[-1]], strict=True)
        return {
            "boxes": np.array(boxes, "float32"),
            "labels": np.array(labels, "int32"),
            "confidence": np.array(scores, "float32"),
        }


@pytest.fixture
def images(tmp_path):
    """Four images, one of them in a subfolder."""
    folder = tmp_path / "data" / "unlabeled"
    (folder / "more").mkdir(parents=True)
    for name, gray in (("a.png", 10), ("b.png", 20), ("more/c.png", 30), ("z.jpg", 40)):
        Image.fromarray(np.full((32, 48, 3), gray, "uint8")).save(folder / name, quality=100)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def real(tmp_path):
    """A labeled dataset with the same classes under other ids, and one more class."""
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    Image.fromarray(np.full((20, 30, 3), 10, "uint8")).save(folder / "a.png")
    names = {"bird": 16, "cat": 17, "cow": 21, "dog": 18}
    content = {
        "images": [{"id": 500, "file_name": "a.png", "height": 20, "width": 30}],
        "annotations": [
            {"id": 7, "image_id": 500, "category_id": 18, "bbox": [1, 1, 9, 9], "iscrowd": 0}
        ],
        "categories": [{"id": i, "name": name} for name, i in names.items()],
    }
    path = tmp_path / "data" / "train.json"
    path.write_text(json.dumps(content))
    return path, folder


def by_file(annotations):
    return {
        image.path.name: [
            (annotations.class_names[int(label)], *np.round(box, 2).tolist())
            for box, label in zip(image.boxes, image.labels, strict=True)
        ]
        for image in annotations.images
    }


def test_confident_detections_become_a_training_set(images, tmp_path):
    out = tmp_path / "new" / "pseudo.json"
    report = PseudoLabels(images, out, CLASSES, 0.5).run(Teacher())
    dataset = load_coco(images, out, batch_size=3, image_size=(64, 64), training=True)
    assert dataset.class_names == list(CLASSES) and dataset.annotations.problems == []
    assert by_file(dataset.annotations) == {
        "a.png": [("cat", 1, 2, 21, 12)],
        "c.png": [("dog", 2, 2, 40, 30), ("bird", 3, 3, 9, 9)],  # without the box of zero width
        "z.jpg": [("bird", 0, 0, 48, 32)],
    }
    ((pixels, targets),) = dataset
    assert pixels.shape == (3, 64, 64, 3) and targets["boxes"].shape == (3, 2, 4)
    content = json.loads(out.read_text())
    scores = [(record["score"], record["area"]) for record in content["annotations"]]
    assert scores == [(0.9, 200.0), (0.7, 1064.0), (0.55, 36.0), (0.8, 1536.0)]
    counts = {"cat": 1, "dog": 1, "bird": 2}
    assert report == {"images": 3, "boxes": 4, "classes": counts, "left_out": 1, "errors": []}
    assert [path.name for path in out.parent.iterdir()] == ["pseudo.json"]


def test_classes_can_have_their_own_thresholds(images, tmp_path):
    labels = PseudoLabels(images, tmp_path / "p.json", CLASSES, 0.5, {"dog": 0.3, "cat": 0.95})
    assert labels.run(Teacher())["classes"] == {"cat": 0, "dog": 3, "bird": 2}
    with pytest.raises(ValueError, match=r"no classes \['', 'horse'\].*'bird'"):
        thresholds = {"horse": 0.5, "": 0.5}
        PseudoLabels(images, tmp_path / "p.json", CLASSES, class_thresholds=thresholds)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"score_threshold": value} for value in (-0.1, "0.5", True)),
        *({"class_thresholds": value} for value in ({"dog": 2}, {"dog": True}, [0.5], None)),
    ],
)
def test_thresholds_are_numbers_from_0_to_1(wrong, images, tmp_path):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=re.escape(f"from 0 to 1. Received: {name}={value!r}")):
        PseudoLabels(images, tmp_path / "p.json", CLASSES, **wrong)


def test_class_names_are_read_like_those_of_annotation_files(images, real, tmp_path):
    path, _ = real
    composed, apart = "caf\u00e9", "cafe\u0301"
    path.write_text(path.read_text().replace('"dog"', json.dumps(composed)))
    for name in (composed, apart):
        thresholds = {f" {apart}": 0.3, composed + "\ufeff": 0.3}
        names = ("cat", name, "bird")
        labels = PseudoLabels(images, tmp_path / "p.json", names, 0.5, thresholds, real)
        assert labels.run(Teacher())["classes"] == {"cat": 1, composed: 3, "bird": 2}


@pytest.mark.parametrize("interrupted_at", [0, 1, 3])
def test_an_interrupted_call_continues_and_gives_the_same_file(images, tmp_path, interrupted_at):
    PseudoLabels(images, tmp_path / "whole.json", CLASSES).run(Teacher())
    out = tmp_path / "again.json"
    with pytest.raises(KeyboardInterrupt):
        PseudoLabels(images, out, CLASSES).run(Teacher(interrupted_at))
    assert not out.exists()
    journal = tmp_path / "again.json.partial"
    with open(journal, "a") as file:
        file.write('{"file": "b.p')  # killed while writing
    labels, teacher = PseudoLabels(images, out, CLASSES), Teacher()
    assert labels.num_done == interrupted_at
    labels.run(teacher)
    assert teacher.seen == [10, 20, 30, 40][interrupted_at:]
    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert not journal.exists()


def test_a_journal_with_other_settings_is_refused(images, tmp_path):
    out = tmp_path / "p.json"
    with pytest.raises(KeyboardInterrupt):
        PseudoLabels(images, out, CLASSES, about={"model": "one"}).run(Teacher(1))
    with pytest.raises(
        ValueError, match=r"model='one' \(now 'two'\), score_threshold=0.5 \(now 0.6\)"
    ):
        PseudoLabels(images, out, CLASSES, 0.6, about={"model": "two"})
    assert PseudoLabels(images, out, CLASSES, about={"model": "two"}, fresh=True).num_done == 0


def test_broken_images_are_named_and_lose_nothing(images, tmp_path):
    (images / "b.png").write_bytes((images / "b.png").read_bytes()[:40])
    out = tmp_path / "p.json"
    with pytest.raises(ValueError, match=r"b\.png is not a readable"):
        PseudoLabels(images, out, CLASSES).run(Teacher())
    teacher = Teacher()
    report = PseudoLabels(images, out, CLASSES, on_error="skip").run(teacher)
    assert teacher.seen == [30, 40]  # the first image is in the journal
    assert [error["file"] for error in report["errors"]] == ["b.png"] and report["images"] == 3


def test_a_labeled_data_set_comes_first_in_the_same_file(images, real, tmp_path):
    out = tmp_path / "data" / "both.json"
    labels = PseudoLabels(images, out, CLASSES, merge=real)
    labels.run(Teacher())
    assert labels.folder == (tmp_path / "data").resolve()
    annotations = CocoAnnotations(out, labels.folder)
    assert annotations.class_names == ["bird", "cat", "dog", "cow"]  # by the ids of the real set
    assert [str(i.path.relative_to(labels.folder)) for i in annotations.images] == [
        *("train/a.png", "unlabeled/a.png", "unlabeled/more/c.png", "unlabeled/z.jpg")
    ]
    assert [image.id for image in annotations.images] == [500, 501, 502, 503]
    labels = [annotations.class_names[int(label)] for i in annotations.images for label in i.labels]
    assert labels == ["dog", "cat", "dog", "bird", "bird"]
    records = json.loads(out.read_text())["annotations"]
    assert [record["id"] for record in records] == [7, 8, 9, 10, 11]
    assert "score" not in records[0] and records[1]["score"] == 0.9


def test_ids_of_the_labeled_data_set_keep_their_spelling(images, real, tmp_path):
    path, _ = real
    content = json.loads(path.read_text())
    for record in content["images"] + content["annotations"] + content["categories"]:
        record |= {key: str(value) for key, value in record.items() if "id" in key.split("_")}
    path.write_text(json.dumps(content))
    PseudoLabels(images, tmp_path / "p.json", CLASSES, merge=real).run(Teacher())
    written = json.loads((tmp_path / "p.json").read_text())
    assert [record["id"] for record in written["images"]] == ["500", "501", "502", "503"]
    used = [(record["id"], record["category_id"]) for record in written["annotations"]]
    assert used == [("7", "18"), ("8", "17"), ("9", "18"), ("10", "16"), ("11", "16")]


@pytest.mark.parametrize(
    "spell",
    [
        lambda folder: "a.png",
        lambda folder: "../unlabeled/a.png",
        lambda folder: "more/../a.png",
        lambda folder: str(folder / "a.png"),
        lambda folder: str(folder / "more" / ".." / "a.png"),
        lambda folder: "0.png",  # a link
    ],
)
def test_labeled_images_are_not_detected_again(images, real, tmp_path, monkeypatch, spell):
    """Labeled and unlabeled images are in one folder."""
    path, _ = real
    content = json.loads(path.read_text())
    content["images"][0] |= {"file_name": spell(images), "height": 32, "width": 48}
    path.write_text(json.dumps(content))
    for link, file in (("0.png", "a.png"), ("more/0.png", "../a.png"), ("y.png", "z.jpg")):
        (images / link).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    for folder in (images, images.relative_to(tmp_path)):
        teacher, out = Teacher(), tmp_path / "p.json"
        PseudoLabels(images, out, CLASSES, merge=(path, folder)).run(teacher)
        assert teacher.seen == [20, 30, 40]
        written = CocoAnnotations(out, images)
        assert [image.path.name for image in written.images[1:]] == ["c.png", "y.png"]
        assert written.images[0].path.samefile(images / "a.png") and not written.problems


@pytest.mark.parametrize("spell", [str, lambda file: f"../../{file.parent.name}/{file.name}"])
def test_labeled_images_outside_both_folders_are_named_absolutely(images, real, tmp_path, spell):
    path, folder = real
    (tmp_path / "other").mkdir()
    file = (folder / "a.png").rename(tmp_path / "other" / "a.png")
    path.write_text(path.read_text().replace('"a.png"', json.dumps(spell(file))))
    labels = PseudoLabels(images, tmp_path / "p.json", CLASSES, merge=real)
    labels.run(Teacher())
    dataset = load_coco(labels.folder, tmp_path / "p.json", image_size=(64, 64))
    paths = [image.path for image in dataset.annotations.images]
    assert paths[0] == file.resolve() and len(paths) == 4


def test_finished_images_that_were_labeled_since_are_left_out(images, real, tmp_path):
    path, _ = real
    out = tmp_path / "p.json"
    with pytest.raises(KeyboardInterrupt):
        PseudoLabels(images, out, CLASSES).run(Teacher(3))
    sizes = '"height": 32, "width": 48'
    path.write_text(path.read_text().replace('"height": 20, "width": 30', sizes))
    labels = PseudoLabels(images, out, CLASSES, merge=(path, images))
    assert labels.num_done == 2
    assert labels.run(Teacher())["images"] == 2
    assert [i.path.name for i in CocoAnnotations(out, images).images] == ["a.png", "c.png", "z.jpg"]


@pytest.mark.filterwarnings("ignore:.* problems")
def test_unusable_parts_of_a_labeled_data_set_can_be_left_out(images, real, tmp_path):
    """The merged file has only usable records, unchanged, and each of them once."""
    path, folder = real
    content = json.loads(path.read_text())
    good = content["annotations"][0] | {"segmentation": [[1, 1, 9, 1, 9, 9]], "by": "me"}
    content["annotations"] = [
        good | {"id": 1, "bbox": [1, 1, 0, 9]},
        good | {"id": 2, "image_id": 600},
        good,
        dict(good),
        None,
    ]
    gone = {"id": 600, "file_name": "gone.png", "height": 20, "width": 30}
    content["images"] = [gone, *content["images"] * 2, {"file_name": "b.png"}, None]
    content["categories"] += [{"id": 18, "name": "sheep"}, {"name": "goat"}]
    path.write_text(json.dumps(content))
    out = tmp_path / "data" / "both.json"
    with pytest.raises(ValueError, match="has 7 problems"):
        PseudoLabels(images, out, CLASSES, merge=real)
    labels = PseudoLabels(images, out, CLASSES, merge=real, on_error="skip")
    labels.run(Teacher())
    assert len(labels.problems) == 9  # two records are listed twice
    assert CocoAnnotations(out, labels.folder).problems == []
    written = json.loads(out.read_text())
    assert written["annotations"][0] == good and len(written["annotations"]) == 5
    assert [i["id"] for i in written["images"]] == [500, 501, 502, 503]
    assert [category["id"] for category in written["categories"]] == [16, 17, 18, 21]


def test_merge_errors_are_raised_before_detection(images, real, tmp_path):
    with pytest.raises(ValueError, match=r"lacks classes of the model: \['horse'\].*'cow'"):
        PseudoLabels(images, tmp_path / "p.json", ("cat", "horse"), merge=real)
    (real[1] / "a.png").unlink()
    with pytest.raises(ValueError, match="no such file"):
        PseudoLabels(images, tmp_path / "p.json", CLASSES, merge=real)
    with pytest.raises(ValueError, match="has no JPEG or PNG file"):
        PseudoLabels(real[1], tmp_path / "p.json", CLASSES)
