"""Which level a region is read from, and what it looks like there."""

import dataclasses
import math

import keras
from keras import ops

from keras_dyhead.detectors.settings import Settings
from keras_dyhead.ops.boxes import box_area
from keras_dyhead.ops.roi_align import roi_align

CANONICAL_LEVEL = 4


@keras.saving.register_keras_serializable(package="keras_dyhead")
@dataclasses.dataclass(frozen=True)
class RegionPooler(Settings):
    """Reads regions by RoIAlign, large ones from coarse levels.

    A region whose side (the root of its area) is `canonical_size` or more is read from P4, one of
    twice that from P5, one of half of it from P3, and so on, as far as there are levels.

    Args:
        size: int. Height and width of what comes out. Defaults to 7.
        sampling_ratio: int. Samples per bin in each direction, or `None`: the number of pixels of
            the bin, rounded up. Defaults to `None`.
        canonical_size: float. In pixels. Defaults to 224.0.
        epsilon: float. What the ratio of side and canonical size is raised by, before rounding
            down: 1e-8 in detectron2, 2.5e-7 in mmdetection (1e-6 of 56 px). Defaults to 1e-8.

    Example:
    ```python
    pooler = RegionPooler()
    boxes = keras.ops.array([[[0.0, 0, 100, 100], [0, 0, 300, 300]]])
    pooler.levels(boxes, min_level=2, max_level=5)  # [[2, 4]]
    ```

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, equation 1.
    """

    size: int = 7
    sampling_ratio: int | None = None
    canonical_size: float = 224.0
    epsilon: float = 1e-8

    def __post_init__(self):
        ratio = self.sampling_ratio
        if self.size < 1 or self.canonical_size <= 0 or (ratio is not None and ratio < 1):
            raise ValueError(
                "`size` and `sampling_ratio` must be at least 1, `canonical_size` positive. "
                f"Received: {self}"
            )

    def levels(self, boxes, min_level: int, max_level: int):
        """Returns the level `(B, R)` int32 of each of the boxes `(B, R, 4)`."""
        side = ops.sqrt(ops.relu(box_area(boxes)))
        level = ops.full_like(side, min_level, dtype="int32")
        for coarser in range(min_level + 1, max_level + 1):
            ratio = 2.0 ** (coarser - CANONICAL_LEVEL) - self.epsilon
            level += ops.cast(side >= ratio * self.canonical_size, "int32")
        return level

    def __call__(self, pyramid, boxes):
        """Reads regions.

        Args:
            pyramid: Dict `{"P2": (B, H, W, C), ...}` of the levels to read from, in ascending
                order without gaps.
            boxes: `(B, R, 4)` float32 xyxy pixels.

        Returns:
            `(B, R, size, size, C)`.
        """
        numbers = [int(level[1:]) for level in pyramid]
        levels = self.levels(boxes, numbers[0], numbers[-1])
        sizes = [ops.shape(x)[1:3] for x in pyramid.values()]
        return roi_align(
            list(pyramid.values()),
            boxes,
            levels - numbers[0],
            [2**number for number in numbers],
            self.size,
            self.sampling_ratio,
            self._most_pixels(sizes),
        )

    def _most_pixels(self, sizes):
        """Returns how many pixels a region can cover at most, where the maps' sizes are known.

        On all levels but the coarsest its area is limited, so that only slivers are long.
        """
        if not all(isinstance(side, int) for size in sizes for side in size):
            return None
        side = self.canonical_size / 2 ** (CANONICAL_LEVEL - 1)
        most = [height * width for height, width in sizes]
        for i, (height, width) in enumerate(sizes[:-1]):
            longest = max(height, width, side)
            # Up to three pixels more than its length are touched in each direction.
            touched = (longest + 3) * (side**2 / longest + 3)
            most[i] = min(most[i], math.ceil(touched))
        return max(most)
