"""Confusions are counted once, and curves match pycocotools and the history."""

import numpy as np
import pytest

from keras_dyhead.coco import CocoAnnotations, coco_metrics, detection_array, draw_shapes
from keras_dyhead.visualization import (
    confusion_matrix,
    evaluation,
    plot_confusion,
    plot_precision_recall,
)


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    """Five classes with category ids that are not in label order."""
    folder = tmp_path_factory.mktemp("shapes")
    path = draw_shapes(folder, 6, image_size=128, empty_fraction=0, seed=3)
    names = ["cross", "star", "circle", "square", "triangle"]
    return CocoAnnotations(path, class_names=names)


@pytest.fixture(scope="module")
def perfect(annotations):
    found = [r | {"score": 0.9} for r in annotations.ground_truth()["annotations"]]
    return detection_array(found)


def boxes_by_class(annotations):
    labels = np.concatenate([image.labels for image in annotations.images]).astype(int)
    return np.bincount(labels, minlength=5)


def test_a_perfect_detector_confuses_nothing(annotations, perfect):
    expected = np.diag([*boxes_by_class(annotations), 0])
    np.testing.assert_array_equal(confusion_matrix(annotations, perfect), expected)


def test_wrong_classes_misses_and_false_alarms_are_distinguished(annotations, perfect):
    first, second = annotations.category_ids[:2]
    found = perfect.copy()
    found["category_id"][found["category_id"] == first] = second  # all crosses become stars
    missed = found["category_id"] == annotations.category_ids[2]  # no circle is found
    found["score"][missed] = 0.29
    invented = found[:1].copy()
    invented["bbox"], invented["score"] = [0, 0, 3, 3], 0.9
    invented["category_id"] = annotations.category_ids[4]
    matrix = confusion_matrix(annotations, np.concatenate([found, invented]))
    counts = boxes_by_class(annotations)
    expected = np.diag([*counts, 0])
    expected[0, 0], expected[0, 1] = 0, counts[0]
    expected[2, 2], expected[2, 5] = 0, counts[2]
    expected[5, 4] = 1
    np.testing.assert_array_equal(matrix, expected)


def test_detections_of_an_unknown_category_are_refused(annotations, perfect):
    strange = perfect[:1].copy()
    strange["category_id"] = 77
    with pytest.raises(ValueError, match=r"among \[.*Received: \[77\]"):
        confusion_matrix(annotations, strange)


def test_a_box_is_paired_with_the_detection_of_the_largest_iou(annotations, perfect):
    """Of three detections of one box, the closest counts and the others match nothing."""
    image = annotations.images[0]
    one = perfect[perfect["image_id"] == image.id][:1]
    worse = np.concatenate([one, one])
    worse["bbox"] += [[2, 0, 0, 0], [0, 1, 0, 0]]
    worse["score"] = 0.99
    matrix = confusion_matrix(annotations, np.concatenate([worse, perfect]))
    assert matrix[5].sum() == 2 and np.trace(matrix) == boxes_by_class(annotations).sum()
    assert confusion_matrix(annotations, perfect[:0])[:5, 5].sum() == len(perfect)


def test_the_curves_average_to_the_figures(annotations, perfect, monkeypatch):
    rng = np.random.default_rng(0)
    found = perfect[rng.random(len(perfect)) < 0.7]
    found["bbox"] += rng.normal(0, 4, found["bbox"].shape)
    found["score"] = rng.random(len(found))
    result = coco_metrics(annotations.ground_truth(), found)
    known = (result.precision >= 0).all(axis=0)
    assert result.precision[:, known].mean() == pytest.approx(result.figures["AP50"])
    for row, curve in zip(result.per_class, result.precision.T, strict=True):
        assert curve.mean() == pytest.approx(row["AP50"])
    monkeypatch.setattr(evaluation, "_CURVES", 3)
    axis, *_ = plot_precision_recall(result.precision, annotations.class_names).axes
    np.testing.assert_allclose(axis.lines[0].get_ydata(), result.precision[:, known].mean(axis=1))
    assert len(axis.lines) == 4
    assert axis.lines[1].get_ydata().mean() == min(result.precision[:, known].mean(axis=0))


def test_names_are_drawn_unchanged(tmp_path):
    names = ["$\\frac$", "_b", "nut [/s]\n"]
    figure = plot_confusion(np.diag([2, 1, 0, 0]), names)
    figure.savefig(tmp_path / "confusion.png")
    shown = ["$\\frac$", "_b", "nut [/s]\\n", "nothing"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == shown
    assert [text.get_text() for text in figure.axes[0].texts] == ["2", "1"]
    precision = np.stack([np.full(101, 0.5), np.full(101, -1.0), np.linspace(1, 0, 101)], axis=1)
    figure = plot_precision_recall(precision, names)
    figure.savefig(tmp_path / "curves.png")
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["mean of 2: 0.500", "$\\frac$: 0.500", "nut [/s]\\n: 0.500"]
    long = plot_confusion(np.eye(3), ["a" * 500, "b" * 500])
    long.draw_without_rendering()
    axis = long.axes[0]
    assert axis.get_tightbbox().x0 >= 0 and axis.get_window_extent().width > 200
    plot_precision_recall(precision[:, 1:2], names[1:2]).savefig(tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"must have 3 rows.*Received: shape \(4, 4\)"):
        plot_confusion(np.eye(4), names[:2])


def test_history_skips_epochs_without_a_value():
    figure = evaluation.plot_history(
        {"loss": [3.0, 2.0, 1.0], "val_AP50": [None, 0.2, 0.4], "epoch": [1, 2, 3]}
    )
    losses, figures = figure.axes
    assert losses.lines[0].get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
    assert figures.lines[0].get_xydata().tolist() == [[2, 0.2], [3, 0.4]]
    assert len(losses.lines) == len(figures.lines) == 1
