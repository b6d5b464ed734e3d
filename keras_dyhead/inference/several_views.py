"""Test-time augmentation: several views of one image, and their merged detections."""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from keras_dyhead.ops.arguments import are_numbers, check, check_choice, fits
from keras_dyhead.ops.boxes import box_iou

MERGES = ("vote", "nms")


@dataclasses.dataclass(frozen=True)
class TestTimeAugmentation:
    """Which views of an image a detector sees, and how their detections are merged.

    Detections of all views are grouped within each class: the most confident one forms a group with
    all that overlap it, then the next one with those that remain. With `"nms"`, a group becomes its
    most confident box. With `"vote"`, it becomes the mean box weighted by confidence, with the
    highest confidence of the group. The detections of a single view stay unchanged.

    Args:
        scales: Factors for the image size that the detector's preprocessor sets. `1.0` keeps it.
            Time and memory grow with their squares. Defaults to `(0.5, 0.75, 1.0, 1.25, 1.5)`.
        horizontal_flip: Whether each scale also has a flipped view. Defaults to `True`.
        merge: `"vote"` or `"nms"`. Defaults to `"vote"`.
        iou_threshold: Boxes overlap if their IoU is larger than this. Defaults to `0.65`.
        size_ranges: For each scale, the `(smallest, largest)` object size to keep, as the square
            root of the box area in pixels of that view. Defaults to `None`: all sizes.

    Raises:
        ValueError: If an argument has another form or is out of range.

    Example:
    ```python
    tta = TestTimeAugmentation(scales=(0.75, 1.0, 1.5), size_ranges=((96, 1e5), (0, 1e5), (0, 256)))
    result = evaluate_coco(image_detector(model, tta), annotations)
    ```

    Source: the paper's multi-scale testing is not in its released code. This is the scheme of
    ATSS, the detector of the paper's best systems (Zhang et al., CVPR 2020; sfzhang15/ATSS,
    `bbox_aug_vote.py`): views by shorter side, each with a range of box sizes, and voting within
    classes at IoU 0.66. In that code, a group includes boxes exactly at the threshold, a width is
    `right - left + 1`, and all scales from 800 on share one limit for the longer side.
    """

    __test__ = False  # pytest would collect a class with this name

    scales: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5)
    horizontal_flip: bool = True
    merge: str = "vote"
    iou_threshold: float = 0.65
    size_ranges: Sequence[tuple[float, float]] | None = None

    def __post_init__(self):
        scales = tuple(self.scales) if np.iterable(self.scales) else ()
        usable = all(fits(scale, float) and 0 < scale < float("inf") for scale in scales)
        unique = usable and len(set(scales)) == len(scales) > 0
        check("scales", self.scales, unique, "unique positive factors")
        object.__setattr__(self, "scales", tuple(map(float, scales)))
        check_choice("merge", self.merge, MERGES)
        inside = fits(self.iou_threshold, float) and 0 < self.iou_threshold < 1
        check("iou_threshold", self.iou_threshold, inside, "between 0 and 1")
        if self.size_ranges is not None:
            paired = are_numbers(self.size_ranges, (len(scales), 2))
            check("size_ranges", self.size_ranges, paired, "one (smallest, largest) for each scale")

    @property
    def views(self) -> list[tuple[float, bool]]:
        """The scale of each view and whether it is flipped."""
        flips = (False, True) if self.horizontal_flip else (False,)
        return [(scale, flipped) for scale in self.scales for flipped in flips]

    def select(self, detections: dict[str, np.ndarray], scale: float, zoom: float) -> dict:
        """Removes the boxes outside the size range of a view at this scale.

        `zoom` is the side of an object in pixels of the view over that in pixels of the image.
        """
        if self.size_ranges is None:
            return detections
        smallest, largest = self.size_ranges[self.scales.index(scale)]
        boxes = detections["boxes"].astype("float64")
        sizes = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)) * zoom
        kept = (sizes >= smallest) & (sizes <= largest)
        return {name: values[kept] for name, values in detections.items()}

    def combine(self, views: Sequence[dict[str, np.ndarray]], max_detections: int = 100) -> dict:
        """Merges the detections of several views of one image, by descending confidence.

        Each view has `{"boxes": (N, 4) xyxy, "labels": (N,), "confidence": (N,)}`, with boxes in
        pixels of the image. The detections of a single view are unchanged.
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
        """Groups the boxes of one class. The most confident box of a group comes first."""
        rows = rows[np.argsort(-found["confidence"][rows], kind="stable")]
        boxes = found["boxes"][rows]
        near = keras.ops.convert_to_numpy(box_iou(boxes, boxes)) > self.iou_threshold
        groups, left = [], np.ones(len(rows), bool)
        for head in range(len(rows)):
            if left[head]:
                group = left & near[head]
                group[head] = True  # even if a box has no area
                groups.append(rows[group])
                left &= ~group
        return groups
