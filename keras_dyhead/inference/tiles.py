"""Detection in overlapping tiles of a large image."""

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np

from keras_dyhead.inference.several_views import TestTimeAugmentation
from keras_dyhead.ops.arguments import fits


@dataclasses.dataclass(frozen=True)
class Tiles:
    """How an image is cut into overlapping tiles, for images with many small objects.

    All tiles have the same size and are spaced evenly, so neighbors overlap by at least `overlap`.
    An image no larger than a tile stays whole. If several tiles show the same object, the most
    confident box is kept (non-maximum suppression within each class). Before that, a box cut by an
    inner border of its tile is left out if another tile has a larger box of the same class that
    covers it. So is a box that ends before the border, if it is the part of a larger box that its
    tile shows. The pieces of an object larger than a tile are kept.

    Args:
        size: Side of a tile in pixels of the image. Defaults to `800`.
        overlap: Fraction of a tile's side that it shares with its neighbor. Objects up to this size
            are whole in one of them. Defaults to `0.2`.
        max_detections: Number of most confident detections to keep in the whole image. Defaults to
            `None`: the limit of the model's decoder.

    Raises:
        TypeError: If `size` or `max_detections` is not an integer, or `overlap` not a number.
        ValueError: If `size` or `max_detections` is not positive, or `overlap` not in `[0, 1)`.

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
        if not (fits(self.size, int) and fits(self.overlap, float) and fits(limit, int)):
            raise TypeError(
                "`size` and `max_detections` must be integers, and `overlap` a number. "
                f"Received: {self}"
            )
        if self.size < 1 or limit < 1 or not 0 <= self.overlap < 1:
            raise ValueError(
                "`size` and `max_detections` must be positive, and `overlap` in [0, 1). "
                f"Received: {self}"
            )

    def detect(
        self,
        function: Callable[[np.ndarray], dict[str, np.ndarray]],
        image: np.ndarray,
        iou_threshold: float,
        max_detections: int,
    ) -> dict[str, np.ndarray]:
        """Detects objects in every tile of an image and merges the detections.

        `function` is as `image_detector` returns it. If two boxes of a class have an IoU above
        `iou_threshold`, the more confident one stays. A cut box is covered if a larger fraction of
        it is. `max_detections` is the limit if the tiles have none.
        """
        rows, columns = (self._starts(side) for side in image.shape[:2])
        found, cut, corners = [], [], []
        for top, left in itertools.product(rows, columns):
            tile = image[top : top + self.size, left : left + self.size]
            detections, (height, width) = function(tile), tile.shape[:2]
            boxes = detections["boxes"]
            cut.append(
                _is_cut(boxes[:, 0], boxes[:, 2], width, left, columns)
                | _is_cut(boxes[:, 1], boxes[:, 3], height, top, rows)
            )
            corners.append([[left, top] * 2, [left + width, top + height] * 2])
            found.append(detections | {"boxes": boxes + np.array([left, top] * 2, boxes.dtype)})
        kept = _keep_largest(found, cut, corners, iou_threshold, self.size / 100)
        found = [
            {name: values[rows] for name, values in detections.items()}
            for detections, rows in zip(found, kept, strict=True)
        ]
        merge = TestTimeAugmentation((1.0,), False, merge="nms", iou_threshold=iou_threshold)
        limit = self.max_detections or max_detections
        return {name: values[:limit] for name, values in merge.combine(found, limit).items()}

    def _starts(self, side: int) -> list[int]:
        """The start positions of tiles along a side of the image."""
        if side <= self.size:
            return [0]
        step = max(1, math.floor(self.size * (1 - self.overlap)))
        count = math.ceil((side - self.size) / step) + 1
        return np.linspace(0, side - self.size, count).astype("int64").tolist()


def _is_cut(low, high, side, start, starts) -> np.ndarray:
    """Whether boxes end at an inner border of their tile, along one axis.

    They extend from `low` to `high` in a tile of length `side` that begins at `start`. `starts` has
    the start of every tile.
    """
    near = side / 100
    return (low <= near) & (start > starts[0]) | (high >= side - near) & (start < starts[-1])


def _keep_largest(found, cut, corners, threshold, near) -> list[np.ndarray]:
    """Which boxes of each tile to keep: those that no other tile shows more of.

    Boxes of different tiles may differ by `near` pixels, which matters for narrow pieces. A piece
    that is not near the border must be the same box as what its tile shows of the larger one.
    """
    boxes = np.concatenate([tile["boxes"] for tile in found]).astype("float64")
    labels = np.concatenate([tile["labels"] for tile in found])
    counts = [len(tile["labels"]) for tile in found]
    tiles, cut = np.repeat(np.arange(len(found)), counts), np.concatenate(cut)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept, nearby = np.ones(len(boxes), bool), []
    for tile, (low, high) in enumerate(np.array(corners, "float64")[..., :2]):
        meet = (boxes[:, :2] <= high + near) & (boxes[:, 2:] >= low - near)
        nearby.append(np.flatnonzero(meet.all(axis=1) & (tiles != tile)))
    for row, (box, tile) in enumerate(zip(boxes, tiles, strict=True)):
        others = nearby[tile]
        others = boxes[others[(areas[others] > areas[row]) & (labels[others] == labels[row])]]
        margin = near if cut[row] else 0.0
        low = np.maximum(others[:, :2] - margin, box[:2])
        high = np.minimum(others[:, 2:] + margin, box[2:])
        covered, united = np.prod(np.maximum(high - low, 0), axis=1), areas[row]
        if not cut[row]:
            shown = np.clip(others, *corners[tile])
            covered[(shown == others).all(axis=1)] = 0
            united = united + np.prod(shown[:, 2:] - shown[:, :2], axis=1) - covered
        kept[row] = not (covered > threshold * united).any()
    return np.split(kept, np.cumsum(counts)[:-1])
