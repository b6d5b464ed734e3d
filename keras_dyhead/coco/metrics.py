"""The twelve COCO figures, by pycocotools."""

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pycocotools.cocoeval import COCOeval

from keras_dyhead.coco.detections import detection_array
from keras_dyhead.coco.matching import TRUTH, match

METRIC_NAMES = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
"""Names of the COCO figures in the order in which pycocotools prints them."""

CLASS_METRIC_NAMES = ("AP", "AP50", "AP75", "AR100")
"""Those of them that are also told for each class."""

# From this many detections on, processes of their own are worth their start. More than eight have
# nothing to do: a third of COCO's boxes are of one class.
_MANY, _MOST_WORKERS = 50_000, 8


class CocoResult(NamedTuple):
    """What an evaluation by COCO's rules has found.

    Attributes:
        figures: `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, `AR1`, `AR10`, `AR100`, `ARs`, `ARm` and
            `ARl`; 0 to 1, or -1 where there is no ground truth of that size.
        per_class: For each category, in the order of the ids, a dictionary with `category_id`,
            `name`, `boxes` (how many it has, crowds aside), `AP`, `AP50`, `AP75` and `AR100`.
        detections: An array with the fields `image_id`, `category_id`, `bbox` and `score`, see
            `detection_array`.
        precision: `(101, K)` precision of every category at the recalls 0, 0.01, ..., 1 for IoU
            0.5; -1 where it has no ground truth.
    """

    figures: dict[str, float]
    per_class: list[dict]
    detections: np.ndarray
    precision: np.ndarray


def coco_metrics(
    ground_truth: Mapping[str, list[dict]],
    results: np.ndarray | Sequence[Mapping],
    *,
    workers: int | None = None,
) -> CocoResult:
    """Computes the COCO box figures with pycocotools, silently.

    The figures are those of one `COCOeval` of everything, to the last bit. Categories are matched
    one after the other, or in processes, so that memory holds the largest one only.

    Args:
        ground_truth: `images`, `annotations` and `categories`, as in a COCO JSON file. Its images
            are the ones that count.
        results: Detections in the COCO results format, a list of `{"image_id", "category_id",
            "bbox", "score"}`, with boxes as `[x, y, width, height]` in pixels; or an array of
            them, see `detection_array`, which takes a tenth of the memory. May be empty.
        workers: Processes to match in. Defaults to `None`: one for each processor core, up to
            eight, from 50,000 detections on, else none besides this one.

    Returns:
        The figures, those of every class, and the detections, see `CocoResult`.

    Raises:
        ValueError: If an entry of `results` is no detection.

    Example:
    ```python
    annotations = CocoAnnotations("instances.json")
    result = coco_metrics(annotations.ground_truth(), json.load(open("results.json")))
    print(result.figures["AP"], {row["name"]: row["AP50"] for row in result.per_class})
    ```
    """
    categories = dict(sorted((r["id"], r.get("name")) for r in ground_truth["categories"]))
    image_ids = [record["id"] for record in ground_truth["images"]]
    truths = _truth_array(ground_truth["annotations"])
    truths = truths[np.isin(truths["image_id"], image_ids)]
    detections = detection_array(results)
    known = np.isin(detections["image_id"], image_ids)
    detections = detections if known.all() else detections[known]
    if workers is None:
        workers = min(os.cpu_count() or 1, _MOST_WORKERS) if len(detections) >= _MANY else 1
    precision, recall = match(truths, detections, list(categories), workers)
    boxes = truths["category_id"][truths["iscrowd"] == 0]
    per_class = []
    for k, (category_id, name) in enumerate(categories.items()):
        figures = _summarize(precision[:, :, k : k + 1], recall[:, k : k + 1])
        record = {"category_id": category_id, "name": str(category_id if name is None else name)}
        record["boxes"] = int(np.sum(boxes == category_id))
        per_class.append(record | {name: figures[name] for name in CLASS_METRIC_NAMES})
    figures = _summarize(precision, recall)
    return CocoResult(figures, per_class, detections, precision[0, :, :, 0, -1])


def _truth_array(records: Sequence[Mapping]) -> np.ndarray:
    truths = np.zeros(len(records), TRUTH)
    for row, record in enumerate(records):
        box, area = record["bbox"], record.get("area")
        area = box[2] * box[3] if area is None else area
        crowd = 1 if record.get("iscrowd") else 0
        truths[row] = record["image_id"], record["category_id"], tuple(box), area, crowd
    return truths


def _summarize(precision: np.ndarray, recall: np.ndarray) -> dict:
    """Has pycocotools average its own tables."""
    evaluation = COCOeval(iouType="bbox")
    evaluation.eval = {"precision": precision, "recall": recall}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.summarize()
    return dict(zip(METRIC_NAMES, map(float, evaluation.stats), strict=True))
