"""Overall and per-class figures, also from incomplete annotation files."""

import numpy as np
import pytest
from coco.scenes import NAMES, perfect_results, pycocotools_figures, shifted_results
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from keras_dyhead.coco import CocoAnnotations, coco_metrics
from keras_dyhead.coco.detections import detection_records


def test_an_annotation_with_id_zero_counts(scenes):
    """pycocotools itself takes a match with id 0 for a miss."""
    for record in scenes.annotations:
        record["id"] -= 1
    scenes.write()
    truth = CocoAnnotations(scenes.json).ground_truth()
    results = perfect_results(scenes)
    assert coco_metrics(truth, results).figures["AP"] == pytest.approx(1.0)
    assert pycocotools_figures(scenes.json, results)["AP"] < 0.99


def test_missing_areas_and_crowd_flags_are_filled_in(scenes):
    for record in scenes.annotations:
        del record["area"], record["iscrowd"]
    scenes.write()
    annotations = CocoAnnotations(scenes.json)
    keys = ("image_id", "category_id", "bbox")
    results = [{**{k: r[k] for k in keys}, "score": 1.0} for r in scenes.annotations]
    figures = coco_metrics(annotations.ground_truth(), results).figures
    assert figures["AP"] == figures["APl"] == pytest.approx(1.0)


def test_per_class_figures_match_pycocotools_on_that_class_alone(scenes):
    results = shifted_results(scenes)
    found = coco_metrics(CocoAnnotations(scenes.json).ground_truth(), results).per_class
    assert [record["name"] for record in found] == ["dog", "cat"]  # by category id: 3, 7
    for record in found:
        truth = COCO(str(scenes.json))
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.catIds = [record["category_id"]]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        expected = dict(zip(NAMES, evaluation.stats, strict=True))
        for name in ("AP", "AP50", "AP75", "AR100"):
            assert record[name] == pytest.approx(expected[name], abs=1e-9)
        boxes = [r for r in scenes.annotations if r["category_id"] == record["category_id"]]
        assert record["boxes"] == sum(not r["iscrowd"] for r in boxes)


def test_ground_truth_is_read_like_annotation_files(scenes):
    truth = CocoAnnotations(scenes.json).ground_truth()
    results = shifted_results(scenes)
    expected = coco_metrics(truth, results).figures
    for record in truth["annotations"]:
        record |= {"iscrowd": str(record["iscrowd"]), "image_id": str(record["image_id"])}
    assert coco_metrics(truth, results).figures == expected
    truth["annotations"][0]["bbox"] = [0, 0, float("nan"), 4]
    with pytest.raises(ValueError, match="must have a finite bbox.*Received: {'id': 1"):
        coco_metrics(truth, results)


def test_numbers_in_text_stay_text_as_pycocotools_needs_them(scenes):
    """pycocotools compares and sorts such ids as text: "10" comes before "5"."""
    spelled = {3: "3", 7: "10"}
    results = shifted_results(scenes)
    for record in results + scenes.annotations:
        record["image_id"] = str(5 * record["image_id"])
        record["category_id"] = spelled[record["category_id"]]
        if "score" in record:
            record["score"] = round(record["score"], 1)
    for record in scenes.images:
        record["id"] = str(5 * record["id"])
    for record in scenes.categories:
        record["id"] = spelled[record["id"]]
    truth = CocoAnnotations(scenes.write()).ground_truth()
    result = coco_metrics(truth, results)
    assert result.figures == pycocotools_figures(scenes.json, detection_records(result.detections))
    assert [row["category_id"] for row in result.per_class] == ["3", "10"]
    assert detection_records(result.detections) == results
    numbers = [
        {**r, "image_id": int(r["image_id"]), "category_id": r["category_id"] + " "}
        for r in results
    ]
    assert detection_records(coco_metrics(truth, numbers).detections) == results


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_detections_that_match_no_ground_truth_id_are_refused(scenes, key):
    truth = CocoAnnotations(scenes.json).ground_truth()
    results = [result | {key: f"x{result[key]}"} for result in perfect_results(scenes)]
    with pytest.raises(ValueError, match=f"No detection has any {key} of the ground truth"):
        coco_metrics(truth, results)


def test_other_limits_match_pycocotools(scenes):
    # Hundreds of false alarms per image push true detections beyond rank 100.
    results = shifted_results(scenes)
    alarm = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 2, 2], "score": 1.0}
    results += [alarm] * 150
    truth = COCO(str(scenes.json))
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.params.maxDets = [1, 10, 300]
    evaluation.params.areaRng = [[0, 1e10], [0, 50**2], [50**2, 70**2], [70**2, 1e10]]
    evaluation.evaluate()
    evaluation.accumulate()
    truth = CocoAnnotations(scenes.json).ground_truth()
    result = coco_metrics(truth, results, max_detections=300, size_limits=(50, 70))
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    for place, name in enumerate(("AP", "APs", "APm", "APl")):
        assert result.figures[name] == np.mean(precision[..., place, 2])
        name = "AR300" if place == 0 else name.replace("P", "R")
        assert result.figures[name] == pytest.approx(np.mean(recall[..., place, 2]), abs=1e-12)
    fewer = coco_metrics(truth, results, size_limits=(50, 70)).figures
    assert fewer["AR100"] < result.figures["AR300"] and "AR100" in fewer
    assert "AR300" in result.per_class[0]
    for wrong in (10, 300.5, "300", None):
        with pytest.raises(ValueError, match="`max_detections` must be an integer greater than 10"):
            coco_metrics(truth, results, max_detections=wrong)
    for wrong in ((96, 32), (32,), "ab", (float("nan"), 96), None):
        with pytest.raises(ValueError, match="`size_limits` must be two ascending lengths"):
            coco_metrics(truth, results, size_limits=wrong)
    for wrong in (0, -1, 1.5, "2"):
        with pytest.raises(ValueError, match="`workers` must be an integer of at least 1"):
            coco_metrics(truth, results, workers=wrong)


@pytest.mark.parametrize("change", [None, {"annotations": None}, {"images": ["a.jpg"]}])
def test_ground_truth_that_is_not_coco_is_shown(change):
    empty = {"images": [], "annotations": [], "categories": []}
    for wrong in ("truth.json", {"images": []}) if change is None else (empty | change,):
        with pytest.raises(ValueError, match="`ground_truth` must have .*'categories'.*Received"):
            coco_metrics(wrong, [])


@pytest.mark.parametrize("change", [{"image_id": 9}, {"category_id": 9}, {"bbox": [1, 2, -3, 4]}])
def test_annotations_that_nothing_could_match_are_refused(change):
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    truth = {"images": [{"id": 1}], "annotations": [annotation], "categories": [{"id": 1}]}
    assert coco_metrics(truth, []).figures["AP"] == 0
    with pytest.raises(ValueError, match="No annotation has any|without negative sides"):
        coco_metrics(truth | {"annotations": [annotation | change]}, [])


def test_ground_truth_in_fractions_of_the_image_size_is_refused(scenes):
    truth = CocoAnnotations(scenes.json).ground_truth()
    for record in truth["annotations"]:
        record["bbox"] = [value / 400 for value in record["bbox"]]
    with pytest.raises(ValueError, match="boxes in pixels, not fractions of the image size"):
        coco_metrics(truth, [])
