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

    All tiles have the same size and are spread evenly, so that neighbours overlap by `overlap` at
    least. An image that is not larger than a tile is detected in as it is. Of tiles that see the
    same object, the most confident box stays: non-maximum suppression within each class. A box that
    ends where its tile ends is left to the neighbour if that one sees all of it.

    Args:
        size: Sides of a tile in pixels of the image. Defaults to `800`.
        overlap: Part of a tile's side that it shares with the next. Objects up to this size are
            seen whole by one of them. Defaults to `0.2`.

    Raises:
        TypeError: If `size` is no integer, or `overlap` no number.
        ValueError: If `size` is not positive, or `overlap` not from 0 to less than 1.

    Example:
    ```python
    detect = image_detector(model, tiles=Tiles(800, overlap=0.2))
    detect(np.zeros((1200, 1600, 3), "uint8"))["boxes"]
    ```
    """

    size: int = 800
    overlap: float = 0.2

    def __post_init__(self):
        for value, kind in ((self.size, numbers.Integral), (self.overlap, numbers.Real)):
            if not isinstance(value, kind) or isinstance(value, bool):
                raise TypeError(
                    "`size` must be an integer, and `overlap` a number. "
                    f"Received: size={self.size!r}, overlap={self.overlap!r}"
                )
        if self.size < 1 or not 0 <= self.overlap < 1:
            raise ValueError(
                "`size` must be positive, and `overlap` from 0 to less than 1. "
                f"Received: size={self.size}, overlap={self.overlap}"
            )

    def detect(
        self,
        function: Callable[[np.ndarray], dict[str, np.ndarray]],
        image: np.ndarray,
        iou_threshold: float,
    ) -> dict[str, np.ndarray]:
        """Detects in every tile of an image and merges what is found.

        Args:
            function: From an image to its detections, as `image_detector` gives it.
            image: `(H, W, 3)` uint8.
            iou_threshold: Of two boxes of a class with a larger IoU the more confident one stays.

        Returns:
            The detections of all tiles, by descending confidence, boxes in pixels of the image.
        """
        rows, columns = (self._starts(side) for side in image.shape[:2])
        found = []
        for top, left in itertools.product(rows, columns):
            tile = image[top : top + self.size, left : left + self.size]
            detections, (height, width) = function(tile), tile.shape[:2]
            boxes = detections["boxes"]
            kept = self._kept(boxes[:, 0], boxes[:, 2], left, width, columns)
            kept &= self._kept(boxes[:, 1], boxes[:, 3], top, height, rows)
            detections["boxes"] = boxes + np.array([left, top] * 2, boxes.dtype)
            found.append({name: values[kept] for name, values in detections.items()})
        merge = TestTimeAugmentation((1.0,), False, merge="nms", iou_threshold=iou_threshold)
        return merge.combine(found, sum(len(tile["labels"]) for tile in found))

    def _starts(self, side: int) -> list[int]:
        """Where tiles begin along a side of the image."""
        if side <= self.size:
            return [0]
        step = max(1, math.floor(self.size * (1 - self.overlap)))
        count = math.ceil((side - self.size) / step) + 1
        return np.linspace(0, side - self.size, count).astype("int64").tolist()

    def _kept(self, low, high, start, side, starts) -> np.ndarray:
        """Leaves out boxes that an inner border cuts off, and that the tile behind it sees whole.

        Along one side, boxes reach from `low` to `high` in a tile of length `side` that begins at
        `start`, one of the `starts` of all.
        """
        near, place = side / 100, starts.index(start)
        kept = np.ones(len(low), bool)
        if place > 0:
            kept &= (low > near) | (high > starts[place - 1] + self.size - start - near)
        if place + 1 < len(starts):
            # At equality the box stays here, as the tile behind leaves it to this one.
            kept &= (high < side - near) | (low <= starts[place + 1] - start + near)
        return kept
