"""Matches detections with the ground truth by pycocotools, one category at a time.

`COCOeval` keeps a dictionary for every detection, and one with all matches for every image,
category and size range: gigabytes for all of COCO. The result of a category depends only on its own
boxes. One category at a time therefore gives the same numbers in the memory of the largest one, and
several in parallel give them faster.

This file imports only NumPy and pycocotools because other processes run it as a script.
"""

import contextlib
import io
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

TRUTH = np.dtype(
    [
        ("image_id", "int64"),
        ("category_id", "int64"),
        ("bbox", "float64", (4,)),
        ("area", "float64"),
        ("iscrowd", "int64"),
    ]
)
"""One ground truth box. `area` determines its size range."""


def match(
    truths: np.ndarray,
    detections: np.ndarray,
    num_categories: int,
    max_detections: int,
    size_limits: tuple[float, float],
    workers: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Computes precision and recall of every category, exactly like a single `COCOeval`.

    Takes arrays of dtypes `TRUTH` and `DETECTION`, whose categories are numbered from 0. `workers`
    processes share them. Returns `COCOeval`'s tables of precision and recall, -1 where there is no
    ground truth.
    """
    rules = max_detections, size_limits
    if not num_categories:
        precision, recall = _match_category(truths[:0], detections[:0], *rules)
        return precision[:, :, :0], recall[:, :0]
    rows = (_split(boxes, num_categories) for boxes in (truths, detections))
    parts = list(zip(*rows, strict=True))
    if min(workers, len(parts)) > 1:
        tables = _match_in_processes(truths, detections, parts, rules, workers)
    else:
        tables = [_match_category(truths[t], detections[d], *rules) for t, d in parts]
    precision, recall = zip(*tables, strict=True)
    return np.concatenate(precision, axis=2), np.concatenate(recall, axis=1)


def _split(boxes: np.ndarray, num_categories: int) -> list[np.ndarray]:
    """Returns the rows of the boxes of each category, in order."""
    order = np.argsort(boxes["category_id"], kind="stable")
    starts = np.searchsorted(boxes["category_id"][order], np.arange(num_categories + 1))
    return np.split(order, starts)[1:-1]  # without those of no category, -1


def _match_category(
    truths: np.ndarray,
    detections: np.ndarray,
    max_detections: int,
    size_limits: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    # As in any COCOeval, images without a box of the category do not count.
    image_ids = np.union1d(truths["image_id"], detections["image_id"]).tolist()
    detected = detections["bbox"][:, 2] * detections["bbox"][:, 3]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _index(truths, image_ids, area=truths["area"], iscrowd=truths["iscrowd"]),
            _index(detections, image_ids, area=detected, score=detections["score"]),
            iouType="bbox",
        )
        evaluation.params.catIds = [0]
        evaluation.params.maxDets[-1] = max_detections
        small, large = (length**2 for length in size_limits)
        whole = evaluation.params.areaRng[0]
        evaluation.params.areaRng = [whole, [0, small], [small, large], [large, whole[1]]]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _index(boxes: np.ndarray, image_ids: list[int], **columns: np.ndarray) -> COCO:
    columns = {"image_id": boxes["image_id"], "bbox": boxes["bbox"], **columns}
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image_id} for image_id in image_ids],
        "categories": [{"id": 0}],
        # Numbered from 1 because COCOeval takes id 0 for no match.
        "annotations": [
            {"id": number, "category_id": 0, **dict(zip(columns, row, strict=True))}
            for number, row in enumerate(rows, start=1)
        ],
    }
    coco.createIndex()
    return coco


def _match_in_processes(truths, detections, parts, rules: tuple, workers: int) -> list:
    """Divides the categories among processes with about as many detections each."""
    largest_first = sorted(range(len(parts)), key=lambda k: -len(parts[k][1]))
    shares = [largest_first[i::workers] for i in range(min(workers, len(parts)))]

    def run(share: list[int]) -> list:
        task = [(truths[parts[k][0]], detections[parts[k][1]], *rules) for k in share]
        # A separate script: TensorFlow's threads do not survive a fork, and a spawned program
        # without `if __name__ == "__main__"` would start itself again.
        process = subprocess.run(
            [sys.executable, __file__],
            input=pickle.dumps(task),
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
        )
        return pickle.loads(process.stdout)

    tables = [None] * len(parts)
    with ThreadPoolExecutor(len(shares)) as pool:
        for share, found in zip(shares, pool.map(run, shares), strict=True):
            for k, table in zip(share, found, strict=True):
                tables[k] = table
    return tables


def main() -> None:
    """Reads ground truth, detections and rules from standard input, and writes the tables."""
    task = pickle.load(sys.stdin.buffer)
    pickle.dump([_match_category(*part) for part in task], sys.stdout.buffer)


if __name__ == "__main__":
    main()
