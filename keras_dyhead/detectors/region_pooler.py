"""Pools regions from the levels of a pyramid."""

import dataclasses
import math

import keras
from keras import ops

from keras_dyhead.detectors.settings import Settings
from keras_dyhead.ops.arguments import check, whole_number
from keras_dyhead.ops.boxes import box_area
from keras_dyhead.ops.roi_align import roi_align

CANONICAL_LEVEL = 4


@keras.saving.register_keras_serializable(package="keras_dyhead")
@dataclasses.dataclass(frozen=True)
class RegionPooler(Settings):
    """Pools regions with RoIAlign, large regions from coarse levels.

    Regions with sides (square roots of their areas) of at least `canonical_size` are pooled from
    P4, of at least twice that from P5, of at least half that from P3, and so on for the levels
    that exist.

    Args:
        size: int. Height and width of a pooled region. Defaults to 7.
        sampling_ratio: int. Samples per bin in each direction, or `None` for the number of pixels
            in the bin, rounded up. Defaults to `None`.
        canonical_size: float. In pixels. Defaults to 224.0.
        epsilon: float. Added to the ratio of side to canonical size before rounding down: 1e-8 in
            detectron2, 2.5e-7 in mmdetection (1e-6 of 56 px). Defaults to 1e-8.

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
        whole_number(self.size, "size")
        if self.sampling_ratio is not None:
            whole_number(self.sampling_ratio, "sampling_ratio")
        check("canonical_size", self.canonical_size, self.canonical_size > 0, "positive")

    def levels(self, boxes, min_level: int, max_level: int):
        """Returns the levels `(B, R)` int32 for boxes `(B, R, 4)`."""
        side = ops.sqrt(ops.relu(box_area(boxes)))
        level = ops.full_like(side, min_level, dtype="int32")
        for coarser in range(min_level + 1, max_level + 1):
            ratio = 2.0 ** (coarser - CANONICAL_LEVEL) - self.epsilon
            level += ops.cast(side >= ratio * self.canonical_size, "int32")
        return level

    def __call__(self, pyramid, boxes):
        """Pools regions.

        Args:
            pyramid: Dict `{"P2": (B, H, W, C), ...}` of consecutive levels in ascending order.
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
        """Returns the most pixels a region can cover, or `None` if map sizes are dynamic.

        On all but the coarsest level, the area of a region is limited.
        """
        if not all(isinstance(side, int) for size in sizes for side in size):
            return None
        side = self.canonical_size / 2 ** (CANONICAL_LEVEL - 1)
        most = [height * width for height, width in sizes]
        for i, (height, width) in enumerate(sizes[:-1]):
            longest = max(height, width, side)
            # A region touches up to three pixels more than its length in each direction.
            touched = (longest + 3) * (side**2 / longest + 3)
            most[i] = min(most[i], math.ceil(touched))
        return max(most)
