"""`keras-dyhead pseudo-label` writes a dataset for `train` and reports bad input."""

import json
import shutil

import pytest
from cli.commands import complaint, output_of

from keras_dyhead.coco import SHAPES, CocoAnnotations
from keras_dyhead.inference import TestTimeAugmentation


def test_pseudo_labels_of_a_folder(folder, views, tmp_path):
    out = tmp_path / "pseudo labels.json"
    own = tmp_path / "own.json"
    own.write_text(json.dumps({SHAPES[0]: 0.95}), encoding="utf-8-sig")
    arguments = ["pseudo-label", "--model", folder / "model.keras", "--images", folder / "photos"]
    arguments += ["--out", out, "--class-thresholds", own, "--tta"]
    told = output_of(*arguments)
    assert views == [TestTimeAugmentation()]
    opened = CocoAnnotations(out, folder / "photos", class_names=SHAPES)
    assert opened.problems == []
    found = {i.path.name: (i.boxes.tolist(), i.labels.tolist()) for i in opened.images}
    # Heights are 40, 150 and 64: in the first two, the box of the whole image has class 0.
    assert found == {"gray.png": ([[0, 0, 64, 64]], [4])}
    assert "1 box in 1 image, 2 images left out" in told
    assert f"--images {folder / 'photos'} --annotations '{out}' --out" in told
    assert "already exists. Use --overwrite" in complaint(*arguments)
    assert "go together" in complaint(*arguments, "--overwrite", "--merge", folder / "shapes.json")
    own.write_text(json.dumps({SHAPES[0]: 2}), encoding="utf-16")
    assert "thresholds from 0 to 1" in complaint(*arguments, "--overwrite")
    own.write_text("{")
    assert "own.json is not a JSON file" in complaint(*arguments, "--overwrite")


def test_a_faulty_labeled_data_set_is_merged_with_the_option_that_the_message_names(
    folder, views, tmp_path
):
    content = json.loads((folder / "shapes.json").read_text())
    content["annotations"][0]["bbox"] = [1, 1, 0, 5]
    faulty, out = tmp_path / "faulty.json", tmp_path / "both.json"
    faulty.write_text(json.dumps(content))
    arguments = ["pseudo-label", "--model", folder / "model.keras", "--images", folder / "photos"]
    arguments += ["--merge", faulty, "--merge-images", folder / "data" / "images", "--out", out]
    assert "has 1 problem (--on-error skip leaves the items out)" in complaint(*arguments)
    assert "annotation 1: " in output_of(*arguments, "--on-error", "skip")
    written = json.loads(out.read_text())["annotations"]
    assert written[0] == content["annotations"][1]
    assert "would replace an input" in complaint(*arguments[:-1], faulty, "--overwrite")
    assert json.loads(faulty.read_text()) == content


@pytest.mark.slow
def test_a_student_trains_on_real_and_pseudo_labels_with_the_printed_command(folder, tmp_path):
    """From a labeled and an unlabeled folder to a trained model, with commands alone."""
    shutil.copytree(folder / "data" / "images", tmp_path / "train")
    shutil.copytree(folder / "photos", tmp_path / "unlabeled")
    both = tmp_path / "both.json"
    written = output_of(
        *("pseudo-label", "--model", folder / "model.keras", "--images", tmp_path / "unlabeled"),
        *("--out", both, "--merge", folder / "shapes.json", "--merge-images", tmp_path / "train"),
        *("--score-threshold", 0.3),
    )
    told = f"keras-dyhead train --images {tmp_path} --annotations {both}"
    assert told in written
    options = ["--out", tmp_path / "student", "--epochs", 1, "--image-size", 64]
    output_of(*told.split()[1:], *options, "--channels", 16, "--batch-size", 2)
    metrics = json.loads((tmp_path / "student" / "metrics.json").read_text())
    assert metrics["images_evaluated"] == 6 and metrics["class_names"] == list(SHAPES)
