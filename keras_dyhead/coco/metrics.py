"""The twelve COCO metrics, by pycocotools."""

import contextlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pycocotools.cocoeval import COCOeval

from keras_dyhead.coco.checks import check_count
from keras_dyhead.coco.detections import DETECTION, detection_array, detection_table
from keras_dyhead.coco.fields import (
    Id,
    find_id,
    id_array,
    id_order,
    index_ids,
    read_area,
    read_box,
    read_flag,
    read_id,
    read_name,
)
from keras_dyhead.coco.matching import TRUTH, match
from keras_dyhead.ops.arguments import are_numbers, check, fits

METRIC_NAMES = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
"""Names of the COCO metrics in the order of pycocotools."""

_PARTS = ("images", "annotations", "categories")

# From this many detections on, separate processes pay off. More than eight would be idle: one class
# has a third of COCO's boxes.
_MANY, _MOST_WORKERS = 50_000, 8


class CocoResult(NamedTuple):
    """The result of a COCO evaluation.

    Attributes:
        figures: `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, `AR1`, `AR10`, `AR100`, `ARs`, `ARm` and
            `ARl`; 0 to 1, or -1 if there is no ground truth of that size. With
            `max_detections=300`, for example, `AR100` is called `AR300`.
        per_class: For each category, ordered by id, a dictionary with `category_id`, `name`,
            `boxes` (their number, without crowds), `AP`, `AP50`, `AP75` and `AR100`.
        detections: An array with the fields `image_id`, `category_id`, `bbox` and `score`, see
            `detection_array`, with ids as the ground truth spells them.
        precision: `(101, K)` precision of every category at the recalls 0, 0.01, ..., 1 for IoU
            0.5; -1 if it has no ground truth.
    """

    figures: dict[str, float]
    per_class: list[dict]
    detections: np.ndarray
    precision: np.ndarray


def coco_metrics(
    ground_truth: Mapping[str, list[dict]],
    results: np.ndarray | Sequence[Mapping],
    *,
    max_detections: int = 100,
    size_limits: tuple[float, float] = (32.0, 96.0),
    workers: int | None = None,
) -> CocoResult:
    """Computes the COCO box metrics with pycocotools, without its printed output.

    The metrics equal those of a single `COCOeval` to the last bit, unless an annotation has the id
    0: `COCOeval` takes a match with it for a miss. Categories are matched one at a time, or in
    several processes, so that memory only holds the largest one.

    Args:
        ground_truth: `images`, `annotations` and `categories`, as in a COCO JSON file. Only its
            images count.
        results: Detections in the COCO results format, a list of `{"image_id", "category_id",
            "bbox", "score"}` with boxes as `[x, y, width, height]` in pixels; or an array of
            them, see `detection_array`, which takes a tenth of the memory. May be empty.
        max_detections: Number of most confident detections that count per image and class; more
            than 10. Defaults to `100`, as in COCO.
        size_limits: Two lengths in pixels. Objects are small (`APs`, `ARs`) up to the square of the
            first, large (`APl`, `ARl`) from that of the second. Defaults to `(32, 96)`, as in COCO.
        workers: Number of matching processes. Defaults to `None`: one per processor core, up to
            eight, from 50,000 detections on; otherwise only this process.

    Returns:
        The metrics overall and per class, and the detections, see `CocoResult`.

    Raises:
        ValueError: If an entry of `results` is not a detection, an entry of `ground_truth` cannot
            be used, its boxes are fractions of the image size, they have no image or no category
            in common, or an argument is out of range.

    Example:
    ```python
    annotations = CocoAnnotations("instances.json")
    result = coco_metrics(annotations.ground_truth(), json.load(open("results.json")))
    print(result.figures["AP"], {row["name"]: row["AP50"] for row in result.per_class})
    ```
    """
    check_rules(max_detections, size_limits, workers)
    parts = [ground_truth.get(p) for p in _PARTS] if isinstance(ground_truth, Mapping) else [None]
    if not all(isinstance(p, Sequence) and all(isinstance(r, Mapping) for r in p) for p in parts):
        raise ValueError(
            f"`ground_truth` must have lists of records under {_PARTS}, like a COCO JSON file. "
            f"Received: {ground_truth!r:.200}"
        )
    index = index_ids(_read_id(r, "id") for r in ground_truth["categories"])
    names = {find_id(_read_id(r, "id"), index): r.get("name") for r in ground_truth["categories"]}
    names = {i: str(i) if names[i] is None else names[i] for i in sorted(names, key=id_order)}
    index = index_ids(_read_id(r, "id") for r in ground_truth["images"])
    image_ids = _as_pycocotools(set(index.values()))  # ties are broken by their order
    truths = _truth_array(ground_truth["annotations"], image_ids, list(names))
    detections = detection_array(results)
    found = np.zeros(len(detections), DETECTION)
    found["bbox"], found["score"] = detections["bbox"], detections["score"]
    for key, ids in (("image_id", image_ids), ("category_id", list(names))):
        found[key] = _places(detections[key].tolist(), ids, f"detection has any {key}")
    known = found["image_id"] >= 0
    if workers is None:
        workers = min(os.cpu_count() or 1, _MOST_WORKERS) if known.sum() >= _MANY else 1
    rules = max_detections, tuple(size_limits), workers
    precision, recall = match(truths, found[known], len(names), *rules)
    metrics = [name.replace("AR100", f"AR{max_detections}") for name in METRIC_NAMES]
    boxes = truths["category_id"][truths["iscrowd"] == 0]
    per_class = []
    for k, (category_id, name) in enumerate(names.items()):
        figures = _summarize(precision[:, :, k : k + 1], recall[:, k : k + 1], metrics)
        record = {"category_id": category_id, "name": read_name(name) or str(name)}
        record["boxes"] = int(np.sum(boxes == k))
        shown = ("AP", "AP50", "AP75", f"AR{max_detections}")
        per_class.append(record | {name: figures[name] for name in shown})
    rows = {category_id: row for row, category_id in enumerate(names)}
    order = [rows[category_id] for category_id in _as_pycocotools(names)]
    figures = _summarize(precision[:, :, order], recall[:, order], metrics)
    if not known.all():
        detections, found = detections[known], found[known]
    detections = _respell(detections, found, image_id=image_ids, category_id=list(names))
    return CocoResult(figures, per_class, detections, precision[0, :, :, 0, -1])


def check_rules(max_detections: int, size_limits: Sequence[float], workers: int | None) -> None:
    """Raises a `ValueError` if such an argument of `coco_metrics` is out of range."""
    counts = fits(max_detections, int) and max_detections > 10
    check("max_detections", max_detections, counts, "an integer greater than 10")
    ascending = are_numbers(size_limits, (2,)) and 0 < size_limits[0] <= size_limits[1]
    check("size_limits", size_limits, ascending, "two ascending lengths")
    check_count(1, workers=workers)


def _read_id(record: Mapping, key: str) -> Id:
    found = read_id(record.get(key))
    if found is None:
        raise ValueError(f"The ground truth must have a usable {key}. Received: {record!r:.200}")
    return found


def _truth_array(records: Sequence[Mapping], image_ids: list, category_ids: list) -> np.ndarray:
    """The ground truth of the selected images and categories, numbered by `_places`."""
    truths = np.zeros(len(records), TRUTH)
    for row, record in enumerate(records):
        box, crowd = read_box(record.get("bbox")), read_flag(record.get("iscrowd"))
        if box is None or crowd is None or not np.isfinite(box).all() or min(box[2:]) < 0:
            raise ValueError(
                "The ground truth must have a finite bbox [x, y, width, height] without negative "
                f"sides, and an iscrowd of 0 or 1. Received: {record!r:.200}"
            )
        area = read_area(record.get("area"))
        truths["bbox"][row], truths["iscrowd"][row] = box, crowd
        truths["area"][row] = box[2] * box[3] if area is None else area
    boxes = truths["bbox"]
    if len(boxes) > 1 and np.max(np.abs(boxes)) <= 1 and np.any(np.mod(boxes, 1)):
        raise ValueError(
            "The ground truth must have boxes in pixels, not fractions of the image size. "
            f"Received: {records[0]!r:.200}"
        )
    for key, known in (("image_id", image_ids), ("category_id", category_ids)):
        truths[key] = _places(
            [_read_id(r, key) for r in records], known, f"annotation has any {key}"
        )
    return truths[truths["image_id"] >= 0]


def _places(ids: list[Id], known: list[Id], what: str) -> list[int]:
    """Returns the position of each id in a list of known ids, -1 if it is not there.

    Raises:
        ValueError: If none is there. The message begins with `what`.
    """
    places, index = {i: place for place, i in enumerate(known)}, index_ids(known)
    found = [places.get(find_id(i, index), -1) for i in ids]
    if known and found and max(found) < 0:
        raise ValueError(f"No {what} of the ground truth, such as {known[:5]}. Received: {ids[:5]}")
    return found


def _respell(detections: np.ndarray, places: np.ndarray, **known: list[Id]) -> np.ndarray:
    """Gives detections the ids of the ground truth, where they spell the same ids otherwise."""
    given = [detections[key].tolist() for key in known]
    spelled = [
        [
            ids[place] if place >= 0 else i
            for i, place in zip(column, places[key].tolist(), strict=True)
        ]
        for column, (key, ids) in zip(given, known.items(), strict=True)
    ]
    if spelled == given:
        return detections
    return detection_table(*map(id_array, spelled), detections["bbox"], detections["score"])


def _as_pycocotools(ids: Iterable[Id]) -> list[Id]:
    """Sorts ids as pycocotools does, which sorts numbers in text as text."""
    return sorted(ids, key=None if all(isinstance(i, str) for i in ids) else id_order)


def _summarize(precision: np.ndarray, recall: np.ndarray, names: list[str]) -> dict[str, float]:
    """Averages tables with pycocotools, whatever limits they were made with."""
    evaluation = COCOeval(iouType="bbox")
    evaluation.eval = {"precision": precision, "recall": recall}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    return dict(zip(names, map(float, evaluation.stats), strict=True))
