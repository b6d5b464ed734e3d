"""Detections in one compact array instead of a dictionary each."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from keras_dyhead.coco.fields import id_array, read_box, read_id, read_number, spell_alike
from keras_dyhead.ops.arguments import check

DETECTION = np.dtype(
    [
        ("image_id", "int64"),
        ("category_id", "int64"),
        ("bbox", "float64", (4,)),
        ("score", "float64"),
    ]
)
"""One detection in COCO's results format, 56 bytes: `bbox` is `[x, y, width, height]` in pixels."""

_ROWS = 10_000  # converted to Python objects at a time


def detection_array(results: np.ndarray | Sequence[Mapping]) -> np.ndarray:
    """Returns detections as an array of dtype `DETECTION`.

    The fields `image_id` and `category_id` hold objects if any of their ids is text or exceeds
    int64. Of several spellings of an id, such as 7 and "7", the first one is used.

    Args:
        results: Such an array, or a list of `{"image_id", "category_id", "bbox", "score"}` as in a
            COCO results file.

    Raises:
        ValueError: If an entry has another form, its box or score is not finite, or a side is
            negative. The message shows the entry.

    Example:
    ```python
    found = detection_array(json.loads(Path("results.json").read_text()))
    found["score"].mean(), found[found["image_id"] == 139]["bbox"]
    ```
    """
    if not isinstance(results, np.ndarray) or results.dtype.names != DETECTION.names:
        listed = isinstance(results, Iterable) and not isinstance(results, (str, bytes, Mapping))
        check("results", results, listed, "a list of detections")
        rows = [_read_detection(record) for record in results]
        image_ids, category_ids, boxes, scores = zip(*rows, strict=True) if rows else ([],) * 4
        ids = (id_array(spell_alike(column)) for column in (image_ids, category_ids))
        results = detection_table(*ids, boxes, scores)
    usable = np.isfinite(results["bbox"]).all(axis=-1) & np.isfinite(results["score"])
    usable &= (results["bbox"][:, 2:] >= 0).all(axis=-1)
    if not usable.all():
        (wrong,) = detection_records(results[~usable][:1])
        raise ValueError(
            "Detections must have finite boxes and scores, and no negative "
            f"sides. Received: {wrong}"
        )
    return results


def _read_detection(record: Mapping) -> tuple:
    if isinstance(record, Mapping):
        ids = read_id(record.get("image_id")), read_id(record.get("category_id"))
        row = *ids, read_box(record.get("bbox")), read_number(record.get("score"))
        if None not in row:
            return row
    raise ValueError(
        "Detections must have an image_id and a category_id, a bbox [x, y, width, height] and a "
        f"score. Received: {record!r:.200}"
    )


def detection_table(image_ids: np.ndarray, category_ids: np.ndarray, boxes, scores) -> np.ndarray:
    """Combines columns into an array, see `detection_array`."""
    dtype = [(name, DETECTION[name]) for name in DETECTION.names]
    dtype[:2] = [("image_id", image_ids.dtype), ("category_id", category_ids.dtype)]
    table = np.zeros(len(image_ids), dtype)
    columns = image_ids, category_ids, np.reshape(boxes, (-1, 4)), scores
    for name, column in zip(DETECTION.names, columns, strict=True):
        table[name] = column
    return table


def xywh_boxes(boxes: np.ndarray) -> np.ndarray:
    """Converts `(..., 4)` boxes from left, top, right, bottom to left, top, width, height."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def xyxy_boxes(boxes: np.ndarray) -> np.ndarray:
    """Converts `(..., 4)` boxes from left, top, width, height to left, top, right, bottom."""
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def detection_records(detections: np.ndarray) -> list[dict]:
    """Returns detections as a list of dictionaries, as in a COCO results file."""
    columns = [detections[name].tolist() for name in DETECTION.names]
    return [dict(zip(DETECTION.names, row, strict=True)) for row in zip(*columns, strict=True)]


def write_detections(detections: np.ndarray, path: str | os.PathLike) -> None:
    """Writes a COCO results file in parts and creates missing folders."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write("[")
        for start in range(0, len(detections), _ROWS):
            part = json.dumps(detection_records(detections[start : start + _ROWS]))
            file.write(("," if start else "") + part[1:-1])
        file.write("]")
