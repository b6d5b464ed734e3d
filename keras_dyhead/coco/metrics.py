"""The twelve COCO figures, by pycocotools."""

import contextlib
import io
from collections.abc import Sequence

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

METRIC_NAMES = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
"""Names of the COCO figures in the order in which pycocotools prints them."""


def coco_metrics(ground_truth: dict[str, list[dict]], results: Sequence[dict]) -> dict[str, float]:
    """Computes the twelve COCO box figures with pycocotools, silently.

    Args:
        ground_truth: `images`, `annotations` and `categories`, as in a COCO JSON file. Its images
            are the ones that count.
        results: Detections in the COCO results format, a list of `{"image_id", "category_id",
            "bbox", "score"}`, with boxes as `[x, y, width, height]` in pixels. May be empty.

    Returns:
        A dictionary with the keys `AP`, `AP50`, `AP75`, `APs`, `APm`, `APl`, `AR1`, `AR10`,
        `AR100`, `ARs`, `ARm`, `ARl`; 0 to 1, or -1 where there is no ground truth of that size.

    Example:
    ```python
    annotations = CocoAnnotations("instances.json")
    figures = coco_metrics(annotations.ground_truth(), json.load(open("results.json")))
    ```
    """
    # Boxes are renumbered from 1 because COCOeval takes a match with the id 0 for no match.
    truths = [
        {"iscrowd": 0, "area": record["bbox"][2] * record["bbox"][3], **record, "id": number}
        for number, record in enumerate(ground_truth["annotations"], start=1)
    ]
    # `COCO.loadRes` does the same but fails on an empty list.
    detections = [
        {**record, "id": number, "area": record["bbox"][2] * record["bbox"][3], "iscrowd": 0}
        for number, record in enumerate(results, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _index({**ground_truth, "annotations": truths}),
            _index({**ground_truth, "annotations": detections}),
            iouType="bbox",
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRIC_NAMES, map(float, evaluation.stats), strict=True))


def _index(dataset: dict) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco
