"""The points that DyHead samples."""

from typing import NamedTuple

import keras
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from keras_dyhead.ops.arguments import are_numbers, check, check_choice, fits
from keras_dyhead.visualization.receptive_field import (
    GRID,
    Points,
    composed_points,
    points_of_block,
)
from keras_dyhead.visualization.scale_weights import BRANCHES
from keras_dyhead.visualization.view import Preprocessor, View, look_inside

_INCHES = 2.4  # side of a picture
_LARGEST = 60  # area of the largest dot, in square points


def plot_sampling(
    model: keras.Model,
    image: np.ndarray,
    point: tuple[float, float],
    level: str,
    preprocessor: Preprocessor | None = None,
    block: int = -1,
) -> Figure:
    """Draws where a cell of the pyramid samples the levels: DyHead's deformed receptive field.

    The first row shows one block: the nine points that the cell samples on its own level, the finer
    and the coarser one. The area of a dot is its mask; crosses are the grid of an ordinary
    convolution. If there are earlier blocks, a second row traces the points back to the pyramid
    that DyHead receives: up to 27^N points after N blocks, with their share of the weight as area.

    With the published alignment, points on the coarser level belong to up to four cells, which are
    mixed. They lie where released weights were trained to read, not around the cell (see
    `SpatialAwareAttention`).

    Args:
        model: As in `plot_attention`.
        image: RGB image `(H, W, 3)`, values 0..255.
        point: (x, y) in pixels of the image, inside the sampling cell.
        level: Name of the cell's level, such as `"P4"`.
        preprocessor: As in `plot_attention`.
        block: Index of the block that outputs the cell. Defaults to `-1`, the last.

    Returns:
        A matplotlib figure outside pyplot, which needs no display and no `close`.

    Raises:
        ValueError: As in `plot_attention`, or if `point` is outside the image or the level or block
            does not exist.

    Example:
    ```python
    model = ATSS(backbone, num_classes=5)  # or one loaded from a .keras file
    plot_sampling(model, read_rgb("street.jpg"), (30, 20), "P4").savefig("sampling.png")
    ```

    Source: paper, section 3.2, equation 4. Such pictures appear in Dai et al., "Deformable
    Convolutional Networks" (ICCV 2017), figure 6.
    """
    return draw_sampling(look_inside(model, image, preprocessor), point, level, block)


def draw_sampling(view: View, point: tuple[float, float], level: str, block: int = -1) -> Figure:
    """Draws `plot_sampling` from a `View`."""
    height, width = view.image.shape[:2]
    count = len(view.blocks)
    inside = are_numbers(point, (2,)) and 0 <= point[0] < width and 0 <= point[1] < height
    check("point", point, inside, f"(x, y) inside the image of {width} x {height} pixels")
    check_choice("level", level, view.levels)
    existing = fits(block, int) and -count <= block < count
    check("block", block, existing, f"a number from 0 to {count - 1}")
    block, number = block % count, view.levels.index(level)
    stride_y, stride_x = view.strides[number]
    cell = (int(point[1] / stride_y), int(point[0] / stride_x))

    start = f"block {block + 1} of {count}: " if count > 1 else ""
    rows = [_row_of_block(view, block, number, cell, f"{start}cell of {level}")]
    if block:
        rows.append(_composed_row(view, block, number, cell))
    return _draw_rows(view, rows, number, cell)


class _Row(NamedTuple):
    """One row of the figure: the image, then a panel (title, points, branch) for each level."""

    title: str
    panels: list[tuple[str, Points, str | None]]
    largest: float  # the weight of the largest dot


def _row_of_block(view: View, block: int, level: int, cell, title: str) -> _Row:
    current, alone = view.blocks[block], (np.array([cell]), np.ones(1))
    branches = dict(points_of_block(current, view.alignment, level, *alone))
    panels = [
        (
            f"{view.levels[branches[name].level]} ({meaning})\n"
            f"scale weight {current.weights[level][name]:.2f}",
            branches[name],
            name,
        )
        for name, (meaning, _) in BRANCHES.items()
        if name in branches
    ]
    return _Row(title, panels, 1.0)


def _composed_row(view: View, block: int, level: int, cell) -> _Row:
    """The points of a block and of all blocks before it."""
    sampled = composed_points(view.blocks[: block + 1], view.alignment, level, cell)
    total = sum(points.weights.sum() for points in sampled)
    sampled = [points for points in sampled if points.weights.sum() >= 0.005 * total]
    panels = []
    for points in sampled:
        share = points.weights.sum() / total
        panels.append((f"{view.levels[points.level]}\n{share:.0%} of the weight", points, None))
    largest = max(points.weights.max() for points in sampled)
    return _Row(f"through blocks {block + 1} to 1", panels, largest)


def _draw_rows(view: View, rows: list[_Row], level: int, cell) -> Figure:
    height, width = view.image.shape[:2]
    windows = [_window(view, [p for _, p, _ in row.panels], cell, level) for row in rows]
    shapes = [(bottom - top) / (right - left) for left, top, right, bottom in windows]
    heights = [_INCHES * min(max(shape, height / width), 1.4) + 0.5 for shape in shapes]
    columns = 1 + max(len(row.panels) for row in rows)
    inches = (_INCHES * columns, sum(heights) + 0.2 * len(rows))
    figure = Figure(figsize=inches, layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08)
    axes = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, row, (left, top, right, bottom) in zip(axes, rows, windows, strict=True):
        line[0].imshow(view.image)
        size = (right - left, bottom - top)
        line[0].add_patch(Rectangle((left, top), *size, fill=False, color="white", ls="--"))
        _draw_cell(line[0], view, level, cell)
        line[0].set_title(row.title, fontsize=8)
        for axis, (title, points, branch) in zip(line[1:], row.panels, strict=False):
            axis.imshow(view.image, alpha=0.8)
            _draw_points(axis, view, points, row.largest)
            if branch:
                _draw_grid(axis, view, points.level, level, cell, branch)
            _draw_cell(axis, view, level, cell)
            axis.set(xlim=(left, right), ylim=(bottom, top))
            axis.set_title(title, fontsize=8)
    notes = ["dot: sampling point, area its mask; cross: grid without offsets; square: the cell"]
    if len(rows) > 1:
        notes.append("second row: points on the pyramid that DyHead receives, area their share")
    figure.supxlabel("\n".join(notes), fontsize=8)
    return figure


def _pixels(view: View, level: int, positions: np.ndarray) -> np.ndarray:
    """Converts (y, x) in cells to (x, y) in pixels of the image. Cell centers are at integers."""
    return ((positions + 0.5) * view.strides[level])[:, ::-1]


def _window(view: View, sampled: list[Points], cell, level) -> tuple[float, float, float, float]:
    """The part of the image (left, top, right, bottom) with the cell and its samples."""
    corners = [_pixels(view, level, np.array([cell]) + step) for step in (-1.0, 1.0)]
    for points in sampled:
        heavy = points.weights > 0.05 * points.weights.max(initial=0)
        corners.append(_pixels(view, points.level, points.positions[heavy]))
    corners = np.concatenate(corners)
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    side = 1.15 * max(right - left, bottom - top)
    height, width = view.image.shape[:2]

    def fit(center, whole):
        start = min(max(center - side / 2, 0), max(whole - side, 0))
        return start, min(start + side, whole)

    (left, right), (top, bottom) = fit((left + right) / 2, width), fit((top + bottom) / 2, height)
    return left, top, right, bottom


def _draw_cell(axis, view, level, cell) -> None:
    stride_y, stride_x = view.strides[level]
    corner = (cell[1] * stride_x, cell[0] * stride_y)
    axis.add_patch(Rectangle(corner, stride_x, stride_y, fill=False, color="cyan", lw=1.2))


def _draw_points(axis, view, points, largest) -> None:
    order = np.argsort(points.weights)  # the heaviest on top
    x, y = _pixels(view, points.level, points.positions[order]).T
    areas = _LARGEST * points.weights[order] / largest
    edges = np.where(areas > 3, 0.3, 0)  # edges would hide small dots
    axis.scatter(
        x, y, s=areas, color="red", edgecolors="white", linewidths=edges, alpha=0.7, zorder=3
    )


def _draw_grid(axis, view, sampled_level, level, cell, branch) -> None:
    """Draws the taps without offsets."""
    if branch == "low":
        x, y = _pixels(view, sampled_level, 2 * np.array(cell) + GRID).T
    else:
        x, y = _pixels(view, level, np.array(cell) + GRID).T
    for width, color in ((2, "black"), (0.8, "white")):
        axis.scatter(x, y, s=18, marker="+", color=color, linewidths=width, zorder=2)
