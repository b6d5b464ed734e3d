"""One image seen at several sizes and mirrored, and the detections of all views made one."""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from keras_dyhead.ops.boxes import box_iou

MERGES = ("vote", "nms")


@dataclasses.dataclass(frozen=True)
class TestTimeAugmentation:
    """Which views of an image a detector sees, and how their detections are merged.

    Of the detections of all views and one class, the most confident takes all that overlap it, then
    the next among those left takes its own. By `"nms"` the most confident box stands for its group.
    By `"vote"` the box is the mean of the group weighted by confidence, and the confidence the
    highest of the group. A single view is not merged: its detections stay what they are.

    Args:
        scales: Factors on the size that the detector's preprocessor gives an image; `1.0` is the
            plain view. Time and memory grow with their squares. Defaults to `(0.5, 0.75, 1.0,
            1.25, 1.5)`.
        flip: Whether each is also seen mirrored left to right. Defaults to `True`.
        merge: `"vote"` or `"nms"`. Defaults to `"vote"`.
        iou_threshold: Boxes overlap if their IoU is larger than this. Defaults to `0.65`.
        size_ranges: For each scale the `(smallest, largest)` size of the objects it is for, the
            square root of a box's area in pixels of that view; its other boxes are left out.
            Defaults to `None`: boxes of all sizes at all scales.

    Raises:
        ValueError: If an argument is none of those.

    Example:
    ```python
    tta = TestTimeAugmentation(scales=(0.75, 1.0, 1.5), size_ranges=((96, 1e5), (0, 1e5), (0, 256)))
    result = evaluate_coco(image_detector(model, tta), annotations)
    ```

    Source: what the paper calls multi-scale testing is not in its released code. This is the
    scheme of ATSS, the detector of the paper's best systems (Zhang et al., CVPR 2020;
    sfzhang15/ATSS, `bbox_aug_vote.py`): views by shorter side, each with a range of box sizes,
    voted class by class at IoU 0.66. There a group takes in boxes at the threshold, a width is
    `right - left + 1`, and one limit for the longer side holds at all scales from 800 on.
    """

    __test__ = False  # pytest takes classes of such a name for tests

    scales: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5)
    flip: bool = True
    merge: str = "vote"
    iou_threshold: float = 0.65
    size_ranges: Sequence[tuple[float, float]] | None = None

    def __post_init__(self):
        object.__setattr__(self, "scales", tuple(map(float, self.scales)))
        usable = bool(self.scales) and all(0 < scale < float("inf") for scale in self.scales)
        if not usable or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"`scales` must be different factors. Received: scales={self.scales}")
        if self.merge not in MERGES:
            raise ValueError(f"`merge` must be one of {MERGES}. Received: merge={self.merge!r}")
        if not 0 < self.iou_threshold < 1:
            raise ValueError(
                "`iou_threshold` must lie between 0 and 1. "
                f"Received: iou_threshold={self.iou_threshold}"
            )
        if self.size_ranges is not None and np.shape(self.size_ranges) != (len(self.scales), 2):
            raise ValueError(
                f"`size_ranges` must have a (smallest, largest) for each of {len(self.scales)} "
                f"scales. Received: size_ranges={self.size_ranges}"
            )

    @property
    def views(self) -> list[tuple[float, bool]]:
        """The scale of every view, and whether it is mirrored."""
        sides = (False, True) if self.flip else (False,)
        return [(scale, mirrored) for scale in self.scales for mirrored in sides]

    def select(self, detections: dict[str, np.ndarray], scale: float, zoom: float) -> dict:
        """Leaves out the boxes that a view is not for.

        Args:
            detections: Those of the view, boxes xyxy in pixels of the image.
            scale: The scale of the view.
            zoom: Side of an object in pixels of the view, over that in pixels of the image.
        """
        if self.size_ranges is None:
            return detections
        smallest, largest = self.size_ranges[self.scales.index(scale)]
        boxes = detections["boxes"].astype("float64")
        sizes = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)) * zoom
        kept = (sizes >= smallest) & (sizes <= largest)
        return {name: values[kept] for name, values in detections.items()}

    def combine(self, views: Sequence[dict[str, np.ndarray]], max_detections: int = 100) -> dict:
        """Merges the detections of several views of one image.

        Args:
            views: For every view `{"boxes": (N, 4) xyxy, "labels": (N,), "confidence": (N,)}`, all
                boxes in pixels of the image.
            max_detections: How many to keep, the most confident. Defaults to `100`.

        Returns:
            The same of all views, by descending confidence; of a single view what it is.
        """
        if len(views) == 1:
            return views[0]
        found = {name: np.concatenate([view[name] for view in views]) for name in views[0]}
        groups = [
            group
            for label in np.unique(found["labels"])
            for group in self._groups(found, np.flatnonzero(found["labels"] == label))
        ]
        heads = np.array([group[0] for group in groups], "int64")
        merged = {name: values[heads] for name, values in found.items()}
        if self.merge == "vote":
            boxes = found["boxes"].astype("float64")
            for box, group in zip(merged["boxes"], groups, strict=True):
                box[:] = np.average(boxes[group], 0, found["confidence"][group])
        order = np.argsort(-merged["confidence"], kind="stable")[:max_detections]
        return {name: values[order] for name, values in merged.items()}

    def _groups(self, found: dict[str, np.ndarray], rows: np.ndarray) -> list[np.ndarray]:
        """Shares out the boxes of one class; of each group the most confident comes first."""
        rows = rows[np.argsort(-found["confidence"][rows], kind="stable")]
        boxes = found["boxes"][rows]
        near = keras.ops.convert_to_numpy(box_iou(boxes, boxes)) > self.iou_threshold
        groups, left = [], np.ones(len(rows), bool)
        for head in range(len(rows)):
            if left[head]:
                group = left & near[head]
                group[head] = True  # also where a box has no area
                groups.append(rows[group])
                left &= ~group
        return groups
