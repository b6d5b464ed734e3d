"""Matching by category gives the numbers of a single COCOeval in less memory."""

import json
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
from coco.scenes import generated_coco, one_cocoeval
from pycocotools.cocoeval import COCOeval

from keras_dyhead.coco import coco_metrics, matching
from keras_dyhead.coco.detections import detection_records

TESTS = Path(__file__).parents[1]


def figures_of(ground_truth, detections):
    return coco_metrics(ground_truth, detections).figures


def test_figures_match_one_cocoeval_to_the_last_bit_in_any_number_of_processes():
    ground_truth, detections = generated_coco(60, 7, 30)
    expected = one_cocoeval(ground_truth, detections)
    assert 0.05 < expected["AP"] < 0.9 and len(set(expected.values())) == 12
    for workers in (1, 3):
        assert coco_metrics(ground_truth, detections, workers=workers).figures == expected
    assert coco_metrics(ground_truth, detection_records(detections)).figures == expected


def test_detections_of_unknown_images_or_categories_do_not_count():
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


def test_memory_holds_one_category_at_a_time(monkeypatch):
    """Each `COCOeval` and its dictionaries are freed before the next one begins."""
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
def test_a_data_set_as_large_as_coco_is_exact_in_a_tenth_of_the_memory(tmp_path):
    """5,000 images, 80 categories, 500,000 detections, each way in a separate process."""
    code = """
import json, resource, sys, time
import numpy as np
from coco.scenes import generated_coco, one_cocoeval
from coco.test_matching import figures_of
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
