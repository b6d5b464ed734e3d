"""The positions where cells of one level sample the maps of all levels."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from keras_dyhead.layers.spatial_attention import read_flat
from keras_dyhead.visualization.view import BlockView

GRID = np.stack(np.mgrid[-1:2, -1:2], axis=-1).reshape(9, 2)  # (y, x) of the nine taps


class Points(NamedTuple):
    """Sampling points on the map of one level.

    Attributes:
        level: Index of the level; 0 is the finest.
        positions: `(N, 2)`: y and x in cells; cell centers are integers.
        weights: `(N,)`: weight of each point.
    """

    level: int
    positions: np.ndarray
    weights: np.ndarray

    def inside(self, size: tuple[int, int]) -> "Points":
        """The points that read at least one cell of a map of this (height, width)."""
        kept = np.all((self.positions > -1) & (self.positions < size), axis=-1)
        return Points(self.level, self.positions[kept], self.weights[kept])


def points_of_block(
    block: BlockView, alignment: str, level: int, cells: np.ndarray, weights: np.ndarray
) -> Iterator[tuple[str, Points]]:
    """Yields the name of each branch of a level and the points that cells sample there.

    `cells` are `(N, 2)` rows and columns on the sampling level. The weight of a point is the weight
    of its cell times its mask. The caller applies the weights of scale-aware attention.

    With the published alignment, a cell gets from the coarser level a bilinear mixture of up to
    four cells, which sample with offsets and masks from other places (see `SpatialAwareAttention`):
    up to 36 points.
    """
    sizes = [mask.shape[:2] for mask in block.masks]
    rows, columns = cells.T
    moved = GRID + block.offsets[level][rows, columns]  # (N, 9, 2)
    masks = block.masks[level][rows, columns] * weights[:, None]

    def points(number, positions, masks):
        return Points(number, positions.reshape(-1, 2), masks.reshape(-1))

    yield "mid", points(level, cells[:, None] + moved, masks)
    if level > 0:
        yield "low", points(level - 1, 2 * cells[:, None] + moved, masks)
    if level < len(sizes) - 1:
        # Corners are aligned: row `i` is row `i * factor` of the coarser map.
        size, coarser = np.array(sizes[level]), np.array(sizes[level + 1])
        factor = (coarser - 1) / np.maximum(size - 1, 1)
        if alignment == "paper":
            positions = cells[:, None] + moved  # on the coarser map, resized to this level
            inside = np.all((positions > -1) & (positions < size), axis=-1)
            yield "high", points(level + 1, positions * factor, masks * inside)
        else:
            offsets, masks = _fields_read_flat(block, level)
            cells, weights = _spread(cells * factor, weights, coarser)
            rows, columns = cells.T
            positions = cells[:, None] + GRID + offsets[rows, columns]
            yield "high", points(level + 1, positions, masks[rows, columns] * weights[:, None])


def composed_points(
    blocks: Sequence[BlockView], alignment: str, level: int, cell: tuple[int, int]
) -> list[Points]:
    """Traces a cell of the last block's output back to the pyramid that the first block receives.

    A cell samples up to 27 points on three levels. In the previous block, each point is a mixture
    of four cells with 27 points each, and so on. The weight of a point is the product of all masks,
    scale weights and bilinear weights along its path, summed over all paths. Returns the points
    inside the map of each pyramid level, none on levels out of reach.
    """
    sizes = [mask.shape[:2] for mask in blocks[0].masks]
    importance = [np.zeros(size) for size in sizes]
    importance[level][cell] = 1.0
    for block in reversed(blocks):
        sampled = [[] for _ in sizes]
        for number, values in enumerate(importance):
            cells = np.argwhere(values > 0)
            gates = block.weights[number]
            for branch, points in points_of_block(
                block, alignment, number, cells, values[tuple(cells.T)] / len(gates)
            ):
                weighed = points._replace(weights=points.weights * gates[branch])
                sampled[points.level].append(weighed.inside(sizes[points.level]))
        joined = [
            Points(
                number,
                np.concatenate([p.positions for p in points] or [np.zeros((0, 2))]),
                np.concatenate([p.weights for p in points] or [np.zeros(0)]),
            )
            for number, points in enumerate(sampled)
        ]
        importance = [np.zeros(size) for size in sizes]
        for points, values, size in zip(joined, importance, sizes, strict=True):
            cells, weights = _spread(points.positions, points.weights, size)
            np.add.at(values, tuple(cells.T), weights)
    return joined


def _spread(positions, weights, size):
    """The up to four cells that each position reads bilinearly, and their parts of its weight."""
    corner = np.floor(positions).astype(int)
    cells, shares = [], []
    for step in ((0, 0), (0, 1), (1, 0), (1, 1)):
        cells.append(corner + step)
        shares.append(weights * np.prod(1 - np.abs(positions - cells[-1]), axis=-1))
    cells, shares = np.concatenate(cells), np.concatenate(shares)
    kept = np.all((cells >= 0) & (cells < size), axis=-1) & (shares > 0)
    return cells[kept], shares[kept]


def _fields_read_flat(block: BlockView, level: int):
    """Offsets and masks of the published alignment for the next coarser level."""
    height, width = block.masks[level + 1].shape[:2]
    offsets, masks = block.offsets[level], block.masks[level]
    field = np.concatenate([offsets.reshape(1, -1, 18), masks.reshape(1, -1, 9)], axis=-1)
    field = np.asarray(read_flat(field, height * width))[0]
    return field[:, :18].reshape(height, width, 9, 2), field[:, 18:].reshape(height, width, 9)
