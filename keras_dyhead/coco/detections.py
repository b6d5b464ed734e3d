"""Detections by the hundred thousand: one compact array instead of a dictionary each."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

DETECTION = np.dtype(
    [
        ("image_id", "int64"),
        ("category_id", "int64"),
        ("bbox", "float64", (4,)),
        ("score", "float64"),
    ]
)
"""One detection in COCO's results format, 56 bytes: `bbox` is `[x, y, width, height]` in pixels."""

_ROWS = 10_000  # turned into Python objects at a time


def detection_array(results: np.ndarray | Sequence[Mapping]) -> np.ndarray:
    """Returns detections as an array of the dtype `DETECTION`.

    Args:
        results: Such an array, or a list of `{"image_id", "category_id", "bbox", "score"}` as in a
            COCO results file.

    Raises:
        ValueError: If an entry is not of that form; the message shows it.

    Example:
    ```python
    found = detection_array(json.loads(Path("results.json").read_text()))
    found["score"].mean(), found[found["image_id"] == 139]["bbox"]
    ```
    """
    if isinstance(results, np.ndarray) and results.dtype == DETECTION:
        return results
    found = np.zeros(len(results), DETECTION)
    for row, record in enumerate(results):
        try:
            found[row] = tuple(record[name] for name in DETECTION.names)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ValueError(
                "Detections must have an integer image_id and category_id, a bbox [x, y, width, "
                f"height] and a score. Received: {record!r:.200}"
            ) from None
    return found


def xywh_boxes(boxes: np.ndarray) -> np.ndarray:
    """Returns `(..., 4)` boxes left, top, right, bottom as left, top, width, height."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def xyxy_boxes(boxes: np.ndarray) -> np.ndarray:
    """Returns `(..., 4)` boxes left, top, width, height as left, top, right, bottom."""
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def detection_records(detections: np.ndarray) -> list[dict]:
    """Returns detections as a list of dictionaries, as evaluation servers take them in JSON."""
    columns = [detections[name].tolist() for name in DETECTION.names]
    return [dict(zip(DETECTION.names, row, strict=True)) for row in zip(*columns, strict=True)]


def write_detections(detections: np.ndarray, path: str | os.PathLike) -> None:
    """Writes a COCO results file, a part at a time; missing folders are made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write("[")
        for start in range(0, len(detections), _ROWS):
            part = json.dumps(detection_records(detections[start : start + _ROWS]))
            file.write(("," if start else "") + part[1:-1])
        file.write("]")
