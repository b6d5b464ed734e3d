"""COCO metrics of known detections, compared with pycocotools itself."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf
from coco.scenes import (
    NAMES,
    SIZES,
    assert_same_figures,
    perfect_results,
    pycocotools_figures,
    shifted_results,
)

from keras_dyhead.coco import (
    CocoAnnotations,
    CocoEvaluation,
    evaluate_coco,
    load_coco,
    write_detections,
)
from keras_dyhead.coco.detections import detection_records, xyxy_boxes

CANVAS = 96


class KnownDetections(keras.Model):
    """Returns fixed detections. The gray value of an image selects the row of the table."""

    def __init__(self, table, bounding_box_format=None):
        super().__init__()
        self.table = {key: tf.constant(value) for key, value in table.items()}
        self.weight = self.add_weight(shape=(), initializer="ones")
        self.traces = []
        if bounding_box_format is not None:
            self.bounding_box_format = bounding_box_format

    def call(self, images):
        self.traces.append(tuple(images.shape))
        row = keras.ops.cast(keras.ops.round(images[:, 0, 0, 0] / 10), "int32")
        return {key: tf.gather(value, row) for key, value in self.table.items()}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return self.weight**2


def detections_on_canvas(results, bounding_box_format="xyxy", label_key="labels"):
    """The table of a model that finds `results`, in canvas pixels and padded with -1."""
    slots = 20
    boxes = np.zeros((len(SIZES), slots, 4), "float32")
    labels = -np.ones((len(SIZES), slots), "float32")
    scores = -np.ones((len(SIZES), slots), "float32")
    counts = np.zeros(len(SIZES), "int32")
    for result in results:
        row = result["image_id"] - 1
        height, width = SIZES[row]
        fit = CANVAS / max(height, width)
        scale_y, scale_x = round(height * fit) / height, round(width * fit) / width
        x, y, w, h = np.array(result["bbox"]) * [scale_x, scale_y, scale_x, scale_y]
        corners = {
            "xyxy": [x, y, x + w, y + h],
            "yxyx": [y, x, y + h, x + w],
            "xywh": [x, y, w, h],
            "center_xywh": [x + w / 2, y + h / 2, w, h],
            "center_yxhw": [y + h / 2, x + w / 2, h, w],
            "rel_xyxy": np.array([x, y, x + w, y + h]) / CANVAS,
            "rel_yxyx": np.array([y, x, y + h, x + w]) / CANVAS,
        }
        slot = counts[row]
        boxes[row, slot] = corners[bounding_box_format]
        labels[row, slot] = [3, 7].index(result["category_id"])
        scores[row, slot] = result["score"]
        counts[row] += 1
    return {"boxes": boxes, label_key: labels, "confidence": scores, "num_detections": counts}


def evaluate(scenes, table, box_format=None):
    """The result of a model with this table on the dataset of the scenes."""
    return evaluate_coco(KnownDetections(table, box_format), load(scenes), verbose=0)


def load(scenes, **kwargs):
    return load_coco(
        scenes.folder, scenes.json, batch_size=2, image_size=(CANVAS, CANVAS), **kwargs
    )


def test_perfect_detections_have_average_precision_one(scenes):
    figures = evaluate(scenes, detections_on_canvas(perfect_results(scenes))).figures
    assert figures["AP"] == figures["AP75"] == figures["AR100"] == pytest.approx(1.0)
    assert min(figures["APs"], figures["APm"], figures["APl"]) == pytest.approx(1.0)


HOSTS = [("xyxy", "labels"), ("yxyx", "labels"), ("center_xywh", "classes")]
HOSTS += [("rel_xyxy", "classes"), ("rel_yxyx", "labels")]


@pytest.mark.parametrize("box_format, label_key", HOSTS)
def test_known_detections_give_the_figures_of_pycocotools_in_every_host_format(
    scenes, tmp_path, box_format, label_key
):
    """Also from the results file, which is in original pixels."""
    results = shifted_results(scenes)
    expected = pycocotools_figures(scenes.json, results)
    assert 0.1 < expected["AP"] < 0.9 and len({*expected.values()}) > 8
    table = detections_on_canvas(results, box_format, label_key)
    found = evaluate(scenes, table, box_format if box_format != "xyxy" else None)
    assert_same_figures(found.figures, expected)
    write_detections(found.detections, tmp_path / "new" / "results.json")
    written = pycocotools_figures(scenes.json, str(tmp_path / "new" / "results.json"))
    assert_same_figures(written, expected)

    def key(result):
        return result["image_id"], result["category_id"], result["score"]

    records = sorted(detection_records(found.detections), key=key)
    for record, one in zip(records, sorted(results, key=key), strict=True):
        assert key(record) == key(one)
        np.testing.assert_allclose(record["bbox"], one["bbox"], atol=1e-4)


def test_boxes_are_clipped_to_the_image_and_dropped_in_the_padding(scenes):
    """Image 1 is 60x90 on a canvas of 96x96: the rows below 64 are padding."""
    table = detections_on_canvas([])
    table["boxes"][0, :3] = [[-5, 60, 200, 90], [10, 70, 20, 90], [0, 0, np.nan, 5]]
    table["labels"][0, :3] = table["confidence"][0, :3] = 1
    table["num_detections"][0] = 3
    (result,) = evaluate(scenes, table).detections
    assert result["category_id"] == 7 and result["image_id"] == 1
    np.testing.assert_allclose(result["bbox"], [0, 56.25, 90, 3.75], rtol=1e-6)


def test_only_num_detections_count(scenes):
    table = detections_on_canvas(perfect_results(scenes))
    table["num_detections"][:] = [2, 0, 1, 0, 0]
    assert len(evaluate(scenes, table).detections) == 3


def test_a_model_that_finds_nothing_has_average_precision_zero(scenes):
    result = evaluate(scenes, detections_on_canvas([]))
    assert set(result.figures.values()) == {0.0} and not len(result.detections)


def test_without_any_ground_truth_the_figures_are_minus_one(scenes):
    table = detections_on_canvas(shifted_results(scenes))
    scenes.annotations = []
    scenes.write()
    assert set(evaluate(scenes, table).figures.values()) == {-1.0}
    with pytest.warns(UserWarning, match="lost its COCO annotations"):
        rebuilt = evaluate_coco(KnownDetections(table), load(scenes).take(3), verbose=0)
    assert set(rebuilt.figures.values()) == {-1.0}


def test_only_delivered_images_count(scenes):
    model = KnownDetections(detections_on_canvas(perfect_results(scenes)))
    dataset = load(scenes)
    for annotations in (dataset.annotations, scenes.json):
        result = evaluate_coco(model, dataset.take(1), annotations, verbose=0)
        assert result.figures["AP"] == pytest.approx(1)


def test_lost_annotations_are_rebuilt_from_the_targets(scenes):
    """The targets give the same figures without crowds and with areas as width x height."""
    for record in scenes.annotations:
        record["iscrowd"], record["area"] = 0, record["bbox"][2] * record["bbox"][3]
    scenes.write()
    model = KnownDetections(detections_on_canvas(shifted_results(scenes)))
    expected = evaluate_coco(model, load(scenes), verbose=0)
    with pytest.warns(UserWarning, match="lost its COCO annotations"):
        found = evaluate_coco(model, load(scenes).map(lambda x, y: (x, y)), verbose=0)
    assert_same_figures(found.figures, expected.figures)


def test_any_data_set_with_boxes_and_labels_can_be_evaluated():
    boxes = np.array([[[10, 20, 50, 60], [5, 5, 90, 30]], [[1, 2, 40, 50], [-1] * 4]], "float32")
    labels = np.array([[0, 4], [1, -1]], "float32")
    table = {"boxes": boxes[..., [1, 0, 3, 2]], "labels": labels, "confidence": labels / 8 + 0.5}
    model = KnownDetections({**table, "num_detections": np.array([2, 1])}, "yxyx")
    images = np.zeros((2, 100, 100, 3), "float32") + np.array([0, 10]).reshape(2, 1, 1, 1)
    targets = {"boxes": boxes[..., [1, 0, 3, 2]], "classes": labels}
    dataset = tf.data.Dataset.from_tensor_slices((images, targets)).batch(1)
    assert evaluate_coco(model, dataset, verbose=0).figures["AP"] == pytest.approx(1.0)
    model.num_classes = 4  # labels counted from 1 are the usual mistake
    with pytest.raises(ValueError, match=r"labels from 0 to 3, .* Received: \[4.\]"):
        evaluate_coco(model, dataset, verbose=0)
    model.num_classes, boxes[0, 0] = 5, np.nan
    dataset = tf.data.Dataset.from_tensor_slices((images, {"boxes": boxes, "labels": labels}))
    with pytest.raises(ValueError, match="finite boxes"):
        evaluate_coco(model, dataset.batch(1), verbose=0)


def test_image_files_are_evaluated_with_a_function_of_one_image(scenes):
    """The figures equal those of a dataset with the same detections."""
    results = shifted_results(scenes)

    def detect(image):
        image_id = int(image[0, 0, 0]) // 10 + 1
        found = [result for result in results if result["image_id"] == image_id]
        boxes = np.array([result["bbox"] for result in found]).reshape(-1, 4)
        return {
            "boxes": xyxy_boxes(boxes).astype("float32"),
            "labels": np.array([[3, 7].index(r["category_id"]) for r in found], "int32"),
            "confidence": np.array([result["score"] for result in found], "float32"),
        }

    annotations = CocoAnnotations(scenes.json, scenes.folder)
    found = evaluate_coco(detect, annotations, verbose=0)
    assert_same_figures(found.figures, pycocotools_figures(scenes.json, results))
    assert len(found.detections) == len(results)
    detect.num_classes = 3
    with pytest.raises(ValueError, match="model has 3 classes, the data have 2.*'dog'"):
        evaluate_coco(detect, annotations)
    detect.class_names = ["cat", "dog"]
    with pytest.raises(ValueError, match="model has the classes .'cat', 'dog'., the data have 2"):
        evaluate_coco(detect, annotations)
    model = KnownDetections(detections_on_canvas(results))
    model.class_names = ["cat", "dog"]
    with pytest.raises(ValueError, match="model has the classes .'cat', 'dog'., the data have 2"):
        evaluate_coco(model, load(scenes))
    for detector, data in ((model, annotations), (detect, load(scenes))):
        with pytest.raises(TypeError, match="a function of one image, such as"):
            evaluate_coco(detector, data)


def test_what_cannot_be_evaluated_raises_an_error(scenes):
    dataset = load(scenes)
    table = detections_on_canvas(perfect_results(scenes))
    model = KnownDetections(table)
    with pytest.raises(ValueError, match="image_id.*training=False"):
        evaluate_coco(model, load(scenes, training=True), dataset.annotations)
    with pytest.raises(ValueError, match="repeats forever"):
        evaluate_coco(model, dataset.repeat(), dataset.annotations)
    with pytest.raises(ValueError, match="every image once"):
        evaluate_coco(model, dataset.repeat(2), dataset.annotations, verbose=0)
    with pytest.raises(ValueError, match=r"\(images, targets\)"):
        evaluate_coco(model, dataset.map(lambda x, y: x))
    with pytest.raises(TypeError, match="CocoAnnotations, a path or None.*3"):
        evaluate_coco(model, dataset, annotations=3)
    del table["confidence"]
    with pytest.raises(ValueError, match="'confidence'.*'boxes', 'labels', 'num_detections'"):
        evaluate_coco(KnownDetections(table), dataset, verbose=0)
    table = detections_on_canvas(perfect_results(scenes))
    table["labels"] += 1
    with pytest.raises(ValueError, match="label 2, but the annotations have 2 classes"):
        evaluate(scenes, table)


def fit(model, scenes, *callbacks, epochs=2, **kwargs):
    model.compile("sgd")
    dataset = load(scenes)
    return model.fit(dataset, epochs=epochs, callbacks=list(callbacks), **{"verbose": 0, **kwargs})


def test_all_twelve_figures_reach_the_history_and_later_callbacks(scenes, tmp_path):
    results = shifted_results(scenes)
    model = KnownDetections(detections_on_canvas(results))
    val = load(scenes)
    early = keras.callbacks.EarlyStopping("val_AP", mode="max", patience=1)
    best = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "{epoch}.weights.h5"), "val_AP50", mode="max", save_weights_only=True
    )
    best.save_best_only = True
    table = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    history = fit(model, scenes, CocoEvaluation(val), early, best, table, epochs=5)
    # The figures never improve: EarlyStopping saw them, and only the first epoch was saved.
    assert history.epoch == [0, 1]
    assert [path.name for path in tmp_path.glob("*.h5")] == ["1.weights.h5"]
    expected = pycocotools_figures(scenes.json, results)
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    for name in NAMES:
        assert history.history[f"val_{name}"] == pytest.approx([expected[name]] * 2)
        assert float(rows[1][f"val_{name}"]) == pytest.approx(expected[name])


def test_evaluation_every_two_epochs_and_after_the_last(scenes):
    model = KnownDetections(detections_on_canvas(perfect_results(scenes)))
    val, seen, traces = load(scenes), [], []

    def on_result(*given):
        seen.append(given)
        traces.append(len(model.traces))

    callback = CocoEvaluation(val, eval_freq=2, on_result=on_result)
    history = fit(model, scenes, callback, epochs=3, validation_data=val).history
    assert traces[0] == traces[-1]  # the model is not traced again in later epochs
    assert {"loss", "val_loss", *(f"val_{name}" for name in NAMES)} == set(history)
    assert [epoch for epoch, _ in seen] == [2, 3]
    assert [result.figures["AP"] for _, result in seen] == history["val_AP"]
    model.stop_training = True  # as another callback does
    callback.on_epoch_end(0)
    assert seen[-1][0] == 1
    for wrong in (0, "1"):
        with pytest.raises(ValueError, match="`eval_freq` must be an integer of at least 1"):
            CocoEvaluation(load(scenes), eval_freq=wrong)
    with pytest.raises(TypeError, match=r"must be a `tf.data.Dataset`.*Received: \[1\]"):
        CocoEvaluation([1])


FOUND = {"boxes": [[1, 2, 9, 9]], "labels": [0], "confidence": [0.5]}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "dictionary with 'boxes'. Received: NoneType"),
        ({"boxes": [], "labels": [], "scores": []}, "with 'confidence'. Received: .*'scores'"),
        (FOUND | {"labels": [0, 1]}, r"Received shapes: \(\(1, 4\), \(2,\), \(1,\)\)"),
        (FOUND | {"labels": [0.5]}, r"Labels must be integers. Received: \[0.5\]"),
    ],
)
def test_other_results_of_a_function_are_refused(scenes, found, message):
    annotations = CocoAnnotations(scenes.json, scenes.folder)
    assert len(evaluate_coco(lambda image: FOUND, annotations, verbose=0).detections) == 5
    with pytest.raises(ValueError, match=message):
        evaluate_coco(lambda image: found, annotations, verbose=0)


def test_the_model_is_traced_once_for_all_batches_with_a_static_batch_size(scenes):
    """Also for the smaller last batch: KerasHub's NMS fails on a batch size of None."""
    model = KnownDetections(detections_on_canvas(perfect_results(scenes)))
    dataset = load(scenes)
    assert [len(images) for images, _ in dataset] == [2, 2, 1]
    evaluate_coco(model, dataset, verbose=0)
    evaluate_coco(model, dataset, verbose=0)
    assert model.traces == [(2, CANVAS, CANVAS, 3)]


def test_pycocotools_is_silent_and_the_progress_bar_follows_fit(scenes, capsys):
    model = KnownDetections(detections_on_canvas(perfect_results(scenes)))
    evaluate_coco(model, load(scenes), verbose=0)
    assert capsys.readouterr().out == ""
    evaluate_coco(model, load(scenes))
    assert "3/3" in capsys.readouterr().out
    fit(model, scenes, CocoEvaluation(load(scenes)), epochs=1, verbose="auto")
    shown = capsys.readouterr().out
    assert "val_AP50: 1.0" in shown and "index" not in shown and shown.count("3/3") >= 2


def test_annotations_that_do_not_match_fail_before_training(scenes):
    with pytest.raises(ValueError, match="image_id"):
        CocoEvaluation(load(scenes, training=True))
