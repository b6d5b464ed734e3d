"""Where outputs are: the sizes of pyramid levels, and the anchors or points in their cells."""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from keras_dyhead.detectors.settings import Settings


@keras.saving.register_keras_serializable(package="keras_dyhead")
@dataclasses.dataclass(frozen=True)
class AnchorGenerator(Settings):
    """Places the same set of anchor boxes in every cell of every pyramid level.

    Level `l` has stride `2**l`. The cell in row `y` and column `x` holds boxes centered on
    `((x + offset) * stride, (y + offset) * stride)`: one for every octave step and ratio, with area
    `(scale * stride * 2**(step / octaves))**2`. Anchors may extend beyond the image.

    Args:
        scale: float. Side of the smallest square anchor in strides. Defaults to 4.0 (RetinaNet;
            ATSS uses 8.0).
        octaves: int. Number of sizes per cell, from `scale` to below `2 * scale`. Defaults to 3.
        ratios: Height divided by width. Defaults to `(0.5, 1.0, 2.0)`.
        offset: float. Position of the anchor's center within its cell: 0.0 (corner; RetinaNet) or
            0.5 (center; ATSS of microsoft/DynamicHead). Defaults to 0.0.
        ratios_first: bool. Order of anchors within a cell. `False`: ratios vary fastest
            (detectron2). `True`: sizes vary fastest (OpenMMLab). Defaults to `False`.

    Example:
    ```python
    anchors = AnchorGenerator(scale=4.0, octaves=1, ratios=(1.0,))
    anchors([(2, 2), (1, 1)], min_level=3)  # (5, 4); the first is [-16, -16, 16, 16]
    ```
    """

    scale: float = 4.0
    octaves: int = 3
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    offset: float = 0.0
    ratios_first: bool = False

    def __post_init__(self):
        object.__setattr__(self, "ratios", tuple(self.ratios))  # a list if loaded from JSON
        if self.scale <= 0 or self.octaves < 1 or not self.ratios or min(self.ratios) <= 0:
            raise ValueError(
                f"`scale` and `ratios` must be positive and `octaves` at least 1. Received: {self}"
            )

    @property
    def per_cell(self) -> int:
        """Number of anchors in every cell."""
        return self.octaves * len(self.ratios)

    def cell(self, stride: int) -> np.ndarray:
        """Returns the anchors of a level around the origin, `(per_cell, 4)`."""
        boxes = []
        for step in range(self.octaves):
            size = self.scale * stride * 2 ** (step / self.octaves)
            for ratio in self.ratios:
                width = math.sqrt(size**2 / ratio)
                height = ratio * width
                boxes.append([-width / 2, -height / 2, width / 2, height / 2])
        boxes = np.array(boxes, "float32").reshape(self.octaves, len(self.ratios), 4)
        return (boxes.swapaxes(0, 1) if self.ratios_first else boxes).reshape(-1, 4)

    def __call__(self, level_sizes, min_level: int):
        """Generates the anchors of a pyramid.

        Args:
            level_sizes: `(height, width)` of each level: ints or scalar int tensors.
            min_level: int. Level of the first size.

        Returns:
            `(A, 4)` float32 xyxy boxes in image pixels, ordered by level, row, column, anchor.
        """
        levels = []
        for level, (height, width) in enumerate(level_sizes, start=min_level):
            centers = _cell_points(height, width, 2**level, self.offset)[:, :, None]
            corners = ops.concatenate([centers, centers], axis=-1)
            levels.append(ops.reshape(corners + self.cell(2**level), (-1, 4)))
        return ops.concatenate(levels)


def grid_points(level_sizes, min_level: int, offset: float):
    """Places one point in every cell of every pyramid level.

    The point of the cell in row `y` and column `x` is `((x + offset) * stride,
    (y + offset) * stride)`. Returns `(A, 3)` float32: x, y and stride in image pixels, ordered by
    level, row, column. Sizes are as in `AnchorGenerator`.
    """
    levels = []
    for level, (height, width) in enumerate(level_sizes, start=min_level):
        centers = ops.reshape(_cell_points(height, width, 2**level, offset), (-1, 2))
        levels.append(ops.pad(centers, ((0, 0), (0, 1)), constant_values=2.0**level))
    return ops.concatenate(levels)


def _cell_points(height, width, stride: int, offset: float):
    """Returns x and y in pixels for every cell of a level, `(height, width, 2)` float32."""
    y = (ops.arange(height, dtype="float32") + offset) * stride
    x = (ops.arange(width, dtype="float32") + offset) * stride
    y, x = ops.meshgrid(y, x, indexing="ij")
    return ops.stack([x, y], axis=-1)


def stack_sizes(sizes):
    """Packs (height, width) pairs into `(L, 2)` int32, which `known_sizes` unpacks.

    On JAX, this is a NumPy array of static sizes, as compiled functions cannot read the values of
    tensors. It is all zeros, and never read, while a model of unknown image size is being built.
    """
    if keras.backend.backend() == "jax":
        known = all(isinstance(side, int) for size in sizes for side in size)
        return np.array(sizes if known else np.zeros((len(sizes), 2)), "int32")
    return ops.cast(ops.stack([ops.stack(size) for size in sizes]), "int32")


def known_sizes(level_sizes):
    """Unpacks an `(L, 2)` tensor into (height, width) pairs, of ints if statically known."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        static = tf.get_static_value(level_sizes)
    else:
        static = ops.convert_to_numpy(level_sizes)
    if static is not None:
        return [(int(height), int(width)) for height, width in static]
    return [(level_sizes[i, 0], level_sizes[i, 1]) for i in range(level_sizes.shape[0])]


def smaller(a, b):
    """Returns the minimum, as an int if both are ints: XLA requires it for `top_k`."""
    return min(a, b) if isinstance(b, int) else ops.minimum(a, b)
