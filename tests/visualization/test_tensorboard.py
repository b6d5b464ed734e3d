"""Event files contain the figures and pictures of every evaluation."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_dyhead.coco import SHAPES, CocoAnnotations, coco_metrics, draw_shapes
from keras_dyhead.visualization import TensorBoardLog


def events(folder):
    """What TensorBoard would show: the values of every tag by step, in writing order."""
    found = {}
    for path in sorted(folder.iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                entry = event.step, plugin, tf.make_ndarray(value.tensor)
                found.setdefault(value.tag, []).append(entry)
    return found


def test_figures_of_every_epoch_and_class_and_a_few_pictures_are_written(tmp_path):
    path = draw_shapes(tmp_path, 9, image_size=64, empty_fraction=0)
    annotations = CocoAnnotations(path, tmp_path / "images")
    truth = annotations.ground_truth()
    perfect = [record | {"score": 0.9} for record in truth["annotations"]]
    results = [coco_metrics(truth, perfect[:5]), coco_metrics(truth, perfect)]
    log = TensorBoardLog(tmp_path / "log", annotations)
    for epoch, result in zip((2, 4), results, strict=True):
        log(epoch, result)
    found = events(tmp_path / "log")
    pictures = [f"detections/{number:06d}.jpg" for number in range(8)]
    figures = {f"coco/{name}": value for name, value in results[1].figures.items()}
    figures |= {f"class_AP/{row['name']}": row["AP"] for row in results[1].per_class}
    assert set(found) == {*figures, *pictures} and {f"class_AP/{name}" for name in SHAPES} < {
        *found
    }
    for name, value in figures.items():
        (first, plugin, _), (second, _, written) = found[name]
        assert (first, second, plugin) == (2, 4, "scalars") and written == pytest.approx(value)
    for step, plugin, (width, height, encoded) in found[pictures[0]][1:]:
        picture = Image.open(io.BytesIO(encoded))
        assert (step, plugin) == (4, "images")
        assert picture.size == (int(width), int(height)) == (2 * 640, 640)
        # The ground truth is on the left, the same boxes as detections on the right.
        left, right = np.hsplit(np.asarray(picture), 2)
        pixels = Image.open(tmp_path / "images" / "000000.jpg").resize((640, 640))
        assert (left != pixels).any() and (right != pixels).any()


def test_images_of_one_name_in_two_folders_have_a_picture_each(tmp_path):
    path = draw_shapes(tmp_path, 2, image_size=64, empty_fraction=0)
    content = json.loads(path.read_text())
    for image, folder in zip(content["images"], "ab", strict=True):
        (tmp_path / folder).mkdir()
        (tmp_path / "images" / image["file_name"]).rename(tmp_path / folder / "1.jpg")
        image["file_name"] = f"{folder}/1.jpg"
    path.write_text(json.dumps(content))
    annotations = CocoAnnotations(path, tmp_path)
    TensorBoardLog(tmp_path / "log", annotations)(1, coco_metrics(annotations.ground_truth(), []))
    pictures = {tag for tag in events(tmp_path / "log") if tag.startswith("detections/")}
    assert pictures == {"detections/1.jpg", "detections/1_2.jpg"}


def test_without_annotations_there_are_no_pictures(tmp_path):
    truth = {"images": [{"id": 1}], "annotations": [], "categories": []}
    TensorBoardLog(tmp_path)(1, coco_metrics(truth, []))
    assert {tag.split("/")[0] for tag in events(tmp_path)} == {"coco"}
