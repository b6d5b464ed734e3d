"""A large image seen in overlapping tiles, each at the size that the detector wants."""

import dataclasses
import itertools
import math
import numbers
from collections.abc import Callable

import numpy as np

from keras_dyhead.inference.several_views import TestTimeAugmentation


@dataclasses.dataclass(frozen=True)
class Tiles:
    """How an image is cut into tiles that overlap, for images with many small objects.

    All tiles have the same size and are spread evenly, so that neighbors overlap by `overlap` at
    least. An image that is not larger than a tile is detected in as it is. Of tiles that see the
    same object, the most confident box stays: non-maximum suppression within each class. Before
    that, a box that an inner border of its tile cuts is left out if a box of its class from another
    tile covers it, and that one is whole or larger. The pieces of an object that is larger than a
    tile stay.

    Args:
        size: Sides of a tile in pixels of the image. Defaults to `800`.
        overlap: Part of a tile's side that it shares with the next. Objects up to this size are
            seen whole by one of them. Defaults to `0.2`.
        max_detections: How many to keep in the whole image, the most confident. Defaults to `None`:
            as many as the model's decoder gives for any image.

    Raises:
        TypeError: If `size` or `max_detections` is no integer, or `overlap` no number.
        ValueError: If `size` or `max_detections` is not positive, or `overlap` not from 0 to less
            than 1.

    Example:
    ```python
    detect = image_detector(model, tiles=Tiles(800, overlap=0.2))
    detect(np.zeros((1200, 1600, 3), "uint8"))["boxes"]
    ```
    """

    size: int = 800
    overlap: float = 0.2
    max_detections: int | None = None

    def __post_init__(self):
        limit = 1 if self.max_detections is None else self.max_detections
        integers = isinstance(self.size, numbers.Integral) and isinstance(limit, numbers.Integral)
        booleans = bool in map(type, (self.size, self.overlap, limit))
        if not integers or booleans or not isinstance(self.overlap, numbers.Real):
            raise TypeError(
                "`size` and `max_detections` must be integers, and `overlap` a number. "
                f"Received: {self}"
            )
        if self.size < 1 or limit < 1 or not 0 <= self.overlap < 1:
            raise ValueError(
                "`size` and `max_detections` must be positive, and `overlap` from 0 to less than "
                f"1. Received: {self}"
            )

    def detect(
        self,
        function: Callable[[np.ndarray], dict[str, np.ndarray]],
        image: np.ndarray,
        iou_threshold: float,
        max_detections: int,
    ) -> dict[str, np.ndarray]:
        """Detects in every tile of an image and merges what is found.

        Args:
            function: From an image to its detections, as `image_detector` gives it.
            image: `(H, W, 3)` uint8.
            iou_threshold: Of two boxes of a class with a larger IoU the more confident one stays.
                A cut box counts as covered if a larger part of it is.
            max_detections: How many to keep, where these tiles do not say.

        Returns:
            The detections of all tiles, by descending confidence, boxes in pixels of the image.
        """
        rows, columns = (self._starts(side) for side in image.shape[:2])
        found, cut = [], []
        for top, left in itertools.product(rows, columns):
            tile = image[top : top + self.size, left : left + self.size]
            detections, (height, width) = function(tile), tile.shape[:2]
            boxes = detections["boxes"]
            cut.append(
                _is_cut(boxes[:, 0], boxes[:, 2], width, left, columns)
                | _is_cut(boxes[:, 1], boxes[:, 3], height, top, rows)
            )
            found.append(detections | {"boxes": boxes + np.array([left, top] * 2, boxes.dtype)})
        kept = _keep_largest(found, cut, iou_threshold, self.size / 100)
        found = [
            {name: values[rows] for name, values in detections.items()}
            for detections, rows in zip(found, kept, strict=True)
        ]
        merge = TestTimeAugmentation((1.0,), False, merge="nms", iou_threshold=iou_threshold)
        limit = self.max_detections or max_detections
        return {name: values[:limit] for name, values in merge.combine(found, limit).items()}

    def _starts(self, side: int) -> list[int]:
        """Where tiles begin along a side of the image."""
        if side <= self.size:
            return [0]
        step = max(1, math.floor(self.size * (1 - self.overlap)))
        count = math.ceil((side - self.size) / step) + 1
        return np.linspace(0, side - self.size, count).astype("int64").tolist()


def _is_cut(low, high, side, start, starts) -> np.ndarray:
    """Whether boxes end at a border of their tile that is none of the image, along one side.

    They reach from `low` to `high` in a tile of length `side` that begins at `start`, one of the
    `starts` of all.
    """
    near = side / 100
    return (low <= near) & (start > starts[0]) | (high >= side - near) & (start < starts[-1])


def _keep_largest(found, cut, threshold, near) -> list[np.ndarray]:
    """Which boxes of every tile to keep: those of which no other tile shows more.

    Boxes of several tiles may lie apart by `near` pixels, which matters to narrow pieces.
    """
    boxes = np.concatenate([tile["boxes"] for tile in found]).astype("float64")
    labels = np.concatenate([tile["labels"] for tile in found])
    counts = [len(tile["labels"]) for tile in found]
    tiles, cut = np.repeat(np.arange(len(found)), counts), np.concatenate(cut)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept = np.ones(len(boxes), bool)
    for row in np.flatnonzero(cut):
        better = ~cut | (areas > areas[row])
        others = better & (labels == labels[row]) & (tiles != tiles[row])
        low = np.maximum(boxes[others, :2] - near, boxes[row, :2])
        high = np.minimum(boxes[others, 2:] + near, boxes[row, 2:])
        covered = np.prod(np.maximum(high - low, 0), axis=1)
        kept[row] = not (covered > threshold * areas[row]).any()
    return np.split(kept, np.cumsum(counts)[:-1])
