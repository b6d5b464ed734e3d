"""Feature maps before DyHead and after each attention."""

from collections.abc import Sequence

import keras
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from keras_dyhead.ops.arguments import check, fits
from keras_dyhead.visualization.view import Preprocessor, View, look_inside

_STEPS = {
    "spatial": "after spatial-aware",
    "scale": "after scale-aware",
    "task": "after task-aware",
}
_LABEL = {"fontsize": 8, "rotation": 0, "ha": "right", "va": "center"}
_INCHES = 2.2  # longer side of a map
_MOST_CELLS = 48  # along a side, up to which cell borders are drawn


def plot_attention(
    model: keras.Model,
    image: np.ndarray,
    preprocessor: Preprocessor | None = None,
    blocks: Sequence[int] | None = None,
    overlay: float = 0.7,
    highest: float | None = None,
) -> Figure:
    """Draws every level's map before DyHead and after each attention, block by block.

    Columns are levels. Rows are steps in the order of computation: spatial-, scale-, then
    task-aware attention. The norm over the channels is drawn over the gray image. All maps share
    one color scale, which shows where and on which level an object stands out. It follows the
    square root, because attention reduces the norms. Padding is cut off.

    Args:
        model: A Keras model that takes images and contains one `DyHeadNeck`: a detector of this
            package, one of KerasCV or KerasHub with DyHead, or your own.
        image: RGB image `(H, W, 3)` of any size, values 0..255.
        preprocessor: Converts images `(1, H, W, 3)` to the model's input: a
            `DetectionPreprocessor`, or a function that returns the same dict. Defaults to the
            model's own if it is a detector of this package. Otherwise the image is fitted into
            the model's input size, if that is fixed, and keeps its values 0..255.
        blocks: Indices of the blocks to draw, from 0. Defaults to `None`: all.
        overlay: Opacity of the colors over the image, 0 to 1. Defaults to `0.7`.
        highest: Norm of the brightest color, to compare figures; the darkest is 0. Defaults to
            `None`: the largest norm in the figure.

    Returns:
        A matplotlib figure outside pyplot, which needs no display and no `close`.

    Raises:
        ValueError: If `image` is not an RGB image, a block does not exist, or the model does not
            have exactly one `DyHeadNeck` with blocks.

    Example:
    ```python
    model = ATSS(backbone, num_classes=5)  # or one loaded from a .keras file
    plot_attention(model, read_rgb("street.jpg")).savefig("attention.png")
    ```

    Source: paper, figure 1, where scale-aware attention comes first. Rows follow the released code.
    """
    return draw_attention(look_inside(model, image, preprocessor), blocks, overlay, highest)


def draw_attention(
    view: View,
    blocks: Sequence[int] | None = None,
    overlay: float = 0.7,
    highest: float | None = None,
) -> Figure:
    """Draws `plot_attention` from a `View`."""
    count = len(view.blocks)
    chosen = range(count) if blocks is None else blocks
    existing = np.iterable(chosen) and all(fits(n, int) and 0 <= n < count for n in chosen)
    check("blocks", blocks, existing, f"a list of numbers from 0 to {count - 1}")
    rows = [("before DyHead", view.before)]
    for number in chosen:
        start = f"block {number + 1} of {count}\n" if count > 1 else ""
        rows += [(start + title, view.blocks[number].norms[step]) for step, title in _STEPS.items()]
    axes = _axes(view, len(rows) + 1)
    for axis in axes[:, :-1].flat:
        axis.set(xticks=[], yticks=[])
    for i in range(len(view.levels)):
        _draw_cells(axes[0, i], view, i)
    axes[0, 0].set_ylabel("image and cells", **_LABEL)
    axes[0, -1].set_axis_off()
    if highest is None:
        highest = max(largest_norm(view, norms) for _, norms in rows)
    for row, (title, norms) in zip(axes[1:], rows, strict=True):
        drawn = _draw_row(row[:-1], view, norms, overlay, highest)
        row[0].set_ylabel(title, **_LABEL)
        row[-1].remove()
    figure = axes[0, 0].figure
    bar = figure.add_subplot(axes[0, 0].get_gridspec()[1:, -1])
    figure.colorbar(drawn, cax=bar).ax.tick_params(labelsize=7)
    return figure


def largest_norm(view: View, norms: Sequence[np.ndarray] | None = None) -> float:
    """Returns the largest norm in the cells on the image, of some maps or the whole view."""
    if norms is None:
        steps = [view.before, *(maps for block in view.blocks for maps in block.norms.values())]
        return max(largest_norm(view, maps) for maps in steps)
    largest = []
    for level, values in enumerate(norms):
        rows, columns = _cells(view, level)
        largest.append(float(values[:rows, :columns].max()))
    return max(largest)


def _axes(view: View, rows: int) -> np.ndarray:
    """Axes with the shape of the image, a column per level and one for the color bar.

    The layout is computed here: with a hundred axes, matplotlib's own layouts are slow.
    """
    height, width = _INCHES * np.array(view.image.shape[:2]) / max(view.image.shape[:2])
    columns, label, title, bar, ticks, gap = len(view.levels), 1.15, 0.25, 0.12, 0.4, 0.05
    across = label + columns * (width + gap) + bar + ticks
    down = title + rows * (height + gap)
    figure = Figure(figsize=(across, down))
    mean = (columns * width + bar) / (columns + 1)  # matplotlib's unit of gaps
    return figure.subplots(
        rows,
        columns + 1,
        squeeze=False,
        gridspec_kw={
            "left": label / across,
            "right": 1 - ticks / across,
            "top": 1 - title / down,
            "bottom": gap / down,
            "wspace": gap / mean,
            "hspace": gap / height,
            "width_ratios": [width] * columns + [bar],
        },
    )


def _draw_cells(axis, view: View, level: int) -> None:
    """Draws the image, with the level's cell borders unless they would hide it."""
    (height, width), (stride_y, stride_x) = view.image.shape[:2], view.strides[level]
    axis.imshow(view.image)
    axis.set(xlim=(0, width), ylim=(height, 0))
    cells = _cells(view, level)
    if max(cells) <= _MOST_CELLS:
        lines = {"colors": "white", "linewidths": 0.4, "alpha": 0.4}
        axis.hlines(np.arange(1, cells[0]) * stride_y, 0, width, **lines)
        axis.vlines(np.arange(1, cells[1]) * stride_x, 0, height, **lines)
    axis.set_title(f"{view.levels[level]}: {cells[1]} x {cells[0]} cells", fontsize=8)


def _draw_row(row, view: View, norms, overlay: float, highest: float):
    """Draws one step on all levels and returns the last map drawn."""
    height, width = view.image.shape[:2]
    for axis, values, (stride_y, stride_x) in zip(row, norms, view.strides, strict=True):
        axis.imshow(
            view.image.mean(axis=-1), "gray", vmin=0, vmax=255, extent=(0, width, height, 0)
        )
        drawn = axis.imshow(
            values,
            "inferno",
            norm=PowerNorm(0.5, vmin=0, vmax=highest),
            alpha=overlay,
            interpolation="nearest",
            extent=(0, values.shape[1] * stride_x, values.shape[0] * stride_y, 0),
        )
        axis.set(xlim=(0, width), ylim=(height, 0))
    return drawn


def _cells(view: View, level: int) -> np.ndarray:
    """The rows and columns of a level that are not entirely padding."""
    return np.ceil(np.divide(view.image.shape[:2], view.strides[level]) - 1e-6).astype(int)
