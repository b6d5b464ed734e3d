"""Matching category by category gives the numbers of one COCOeval of everything, in less memory."""

import json
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from keras_dyhead.coco import METRIC_NAMES, coco_metrics, matching
from keras_dyhead.coco.detections import (
    DETECTION,
    detection_array,
    detection_records,
    write_detections,
)

TESTS = Path(__file__).parents[1]


def generated_coco(images, classes, detections_per_image):
    """Ground truth with crowds and a class without boxes; half the detections are near a truth.

    Ids are neither consecutive nor in order, and many scores are equal.
    """
    random = np.random.default_rng(0)
    image_ids = random.permutation(10 * images)[:images] + 1
    category_ids = (random.permutation(3 * classes)[:classes] + 1).tolist()
    share = 1 / np.arange(1, classes) ** 0.7
    share = np.append(share / share.sum(), 0)
    annotations, tables = [], []
    for image_id in image_ids.tolist():
        count = random.integers(0, 15)
        sides = np.exp(random.normal(4, 1, (count, 2))).clip(4, 400)
        corners = random.uniform(0, 1, (count, 2)) * (640 - sides)
        labels = random.choice(classes, count, p=share)
        for corner, side, label in zip(corners, sides, labels, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_ids[label],
                    "bbox": [*corner.tolist(), *side.tolist()],
                    "area": float(side.prod() * 0.7),
                    "iscrowd": int(random.uniform() < 0.02),
                }
            )
        table = np.zeros(detections_per_image, DETECTION)
        table["image_id"] = image_id
        table["category_id"] = random.choice(category_ids, len(table))
        table["score"] = random.uniform(0, 1, len(table)).round(2)
        table["bbox"] = random.uniform(5, 300, (len(table), 4))
        if count:
            near, chosen = np.s_[::2], random.integers(0, count, len(table[::2]))
            shift = random.normal(0, 0.1, (2, len(chosen), 2)) * sides[chosen]
            table["bbox"][near] = np.hstack([corners[chosen] + shift[0], sides[chosen] + shift[1]])
            table["category_id"][near] = np.take(category_ids, labels[chosen])
        tables.append(table)
    ground_truth = {
        "images": [{"id": image_id} for image_id in image_ids.tolist()],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in category_ids],
    }
    return ground_truth, np.concatenate(tables)


def one_cocoeval(ground_truth, detections):
    """All categories at once, as pycocotools itself does it."""
    truth, found = COCO(), COCO()
    truth.dataset = json.loads(json.dumps(ground_truth))
    records = enumerate(detection_records(detections), start=1)
    areas = detections["bbox"][:, 2] * detections["bbox"][:, 3]
    annotations = [{**r, "id": i, "area": float(areas[i - 1]), "iscrowd": 0} for i, r in records]
    found.dataset = {**truth.dataset, "annotations": annotations}
    truth.createIndex()
    found.createIndex()
    evaluation = COCOeval(truth, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(METRIC_NAMES, evaluation.stats.tolist(), strict=True))


def figures_of(ground_truth, detections):
    return coco_metrics(ground_truth, detections).figures


def test_the_figures_are_those_of_one_cocoeval_to_the_last_bit_in_any_number_of_processes():
    ground_truth, detections = generated_coco(60, 7, 30)
    expected = one_cocoeval(ground_truth, detections)
    assert 0.05 < expected["AP"] < 0.9 and len(set(expected.values())) == 12
    for workers in (1, 3):
        assert coco_metrics(ground_truth, detections, workers=workers).figures == expected
    assert coco_metrics(ground_truth, detection_records(detections)).figures == expected


def test_what_is_of_no_image_or_category_of_the_truth_does_not_count():
    ground_truth, detections = generated_coco(20, 4, 20)
    expected = coco_metrics(ground_truth, detections).figures
    other = detections.copy()
    other["image_id"] += 1_000_000
    unknown = detections.copy()
    unknown["category_id"] += 1_000_000
    found = coco_metrics(ground_truth, np.concatenate([detections, other, unknown]))
    assert found.figures == expected
    nothing = {"images": [], "annotations": [], "categories": []}
    assert set(coco_metrics(nothing, detections).figures.values()) == {-1.0}


def test_a_detection_takes_56_bytes_and_survives_the_way_through_a_file(tmp_path):
    _, detections = generated_coco(30, 4, 400)  # more than one part
    assert detections.nbytes == 56 * 12_000
    path = tmp_path / "new" / "results.json"
    write_detections(detections, path)
    records = json.loads(path.read_text())
    assert records == detection_records(detections)
    np.testing.assert_array_equal(detection_array(records), detections)
    write_detections(detections[:0], path)
    assert json.loads(path.read_text()) == []


def test_an_entry_that_is_no_detection_is_shown():
    for record in (
        {"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4]},
        {"image_id": 1, "category_id": 2, "bbox": [1, 2, 3], "score": 0.5},
        {"image_id": "one", "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5},
    ):
        with pytest.raises(ValueError, match=r"image_id and category_id.*Received: \{'image_id'"):
            detection_array([record])


def test_memory_holds_one_category_at_a_time(monkeypatch):
    """Each `COCOeval`, with its dictionaries, is gone before the next one begins."""
    ground_truth, detections = generated_coco(20, 6, 20)
    seen, alive = [], []

    class Watched(COCOeval):
        def __init__(self, truth=None, found=None, **kwargs):
            super().__init__(truth, found, **kwargs)
            if found is not None:
                assert all(reference() is None for reference in alive)
                alive.append(weakref.ref(self))
                seen.append(len(found.anns))

    monkeypatch.setattr(matching, "COCOeval", Watched)
    coco_metrics(ground_truth, detections)
    ids = sorted(record["id"] for record in ground_truth["categories"])
    assert seen == [np.sum(detections["category_id"] == i) for i in ids] and len(seen) == 6


@pytest.mark.slow
def test_coco_size_is_exact_and_takes_a_tenth_of_the_memory(tmp_path):
    """5,000 images, 80 categories, 500,000 detections; each in a process of its own."""
    code = """
import json, resource, sys, time
import numpy as np
from coco.test_matching import figures_of, generated_coco, one_cocoeval
ground_truth, detections = generated_coco(5000, 80, 100)
rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = rss(), time.perf_counter()
figures = eval(sys.argv[1])(ground_truth, detections)
record = {"figures": figures, "MB": rss() - before, "seconds": time.perf_counter() - start}
open(sys.argv[2], "w").write(json.dumps(record))
"""
    records = []
    for function in ("figures_of", "one_cocoeval"):
        out = tmp_path / function
        subprocess.run([sys.executable, "-c", code, function, out], check=True, cwd=TESTS)
        records.append(json.loads(out.read_text()))
        print(function, records[-1])
    ours, whole = records
    assert ours["figures"] == whole["figures"]
    assert ours["MB"] < 0.15 * whole["MB"]
