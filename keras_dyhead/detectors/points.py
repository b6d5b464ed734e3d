"""Points of dense detectors without anchors."""

import dataclasses

import keras
from keras import ops

from keras_dyhead.detectors.settings import Settings


@keras.saving.register_keras_serializable(package="keras_dyhead")
@dataclasses.dataclass(frozen=True)
class PointGenerator(Settings):
    """Places one point in every cell of every pyramid level.

    Level `l` has stride `2**l`. The point of the cell in row `y` and column `x` is
    `((x + offset) * stride, (y + offset) * stride)`.

    Args:
        offset: float. Position within the cell: 0.0 (corner; RepPoints) or 0.5 (middle; FCOS).
            Defaults to 0.5.

    Example:
    ```python
    PointGenerator()([(2, 2), (1, 1)], min_level=3)  # (5, 3); the first is [4, 4, 8]
    ```
    """

    offset: float = 0.5

    def __call__(self, level_sizes, min_level: int):
        """Generates the points of a whole pyramid.

        Args:
            level_sizes: `(height, width)` of each level: ints or scalar int tensors.
            min_level: int. Level of the first size.

        Returns:
            `(A, 3)` float32: x, y and stride in image pixels, ordered by level, row, column.
        """
        levels = []
        for index, (height, width) in enumerate(level_sizes):
            stride = 2 ** (min_level + index)
            centres = ops.reshape(cell_points(height, width, stride, self.offset), (-1, 2))
            levels.append(ops.pad(centres, ((0, 0), (0, 1)), constant_values=float(stride)))
        return ops.concatenate(levels)


def cell_points(height, width, stride: int, offset: float):
    """Returns the point of every cell of a level, `(height, width, 2)` float32 x and y in pixels.

    Args:
        height: Rows of the level: int or scalar int tensor.
        width: Columns of the level: int or scalar int tensor.
        stride: int. Pixels between two cells.
        offset: float. Position within the cell, between 0.0 and 1.0.
    """
    y = (ops.arange(height, dtype="float32") + offset) * stride
    x = (ops.arange(width, dtype="float32") + offset) * stride
    y, x = ops.meshgrid(y, x, indexing="ij")
    return ops.stack([x, y], axis=-1)
