"""The figures of all classes and of each, whatever the annotation file leaves out."""

import pytest
from coco.scenes import NAMES, perfect_results, shifted_results
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from keras_dyhead.coco import CocoAnnotations, coco_metrics


def test_an_annotation_with_the_id_zero_counts(scenes):
    """pycocotools itself takes a match with the id 0 for a miss."""
    for record in scenes.annotations:
        record["id"] -= 1
    scenes.write()
    truth = CocoAnnotations(scenes.json).ground_truth()
    assert coco_metrics(truth, perfect_results(scenes)).figures["AP"] == pytest.approx(1.0)


def test_missing_areas_and_crowd_flags_are_filled_in(scenes):
    for record in scenes.annotations:
        del record["area"], record["iscrowd"]
    scenes.write()
    annotations = CocoAnnotations(scenes.json)
    keys = ("image_id", "category_id", "bbox")
    results = [{**{k: r[k] for k in keys}, "score": 1.0} for r in scenes.annotations]
    figures = coco_metrics(annotations.ground_truth(), results).figures
    assert figures["AP"] == figures["APl"] == pytest.approx(1.0)


def test_a_class_has_the_figures_of_pycocotools_on_that_class_alone(scenes):
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
