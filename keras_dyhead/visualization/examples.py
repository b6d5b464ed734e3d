"""What a detector is given to learn from."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from keras_dyhead.visualization.detections import draw_boxes, draw_legend

_INCHES = 3.2  # side of one picture


def plot_examples(
    images: Sequence[np.ndarray],
    targets: Sequence[dict[str, Any]],
    class_names: Sequence[str] | None = None,
    columns: int = 4,
) -> Figure:
    """Draws images with their boxes in a grid.

    Args:
        images: RGB images `(H, W, 3)`, values 0..255 of any dtype, of equal or different sizes.
        targets: For every image a dictionary `{"boxes": (N, 4), "labels": (N,)}`: xyxy pixels of
            that image, label -1 where padded.
        class_names: The name of each label. Defaults to `None`: the labels themselves.
        columns: Images side by side. Defaults to `4`.

    Returns:
        A matplotlib figure of its own, outside pyplot: it needs no display and no `close`.

    Raises:
        ValueError: If the two sequences differ in length or are empty.

    Example:
    ```python
    box = {"boxes": np.array([[8.0, 8, 40, 40]]), "labels": np.array([0])}
    plot_examples([np.zeros((64, 64, 3), "uint8")], [box], ["circle"]).savefig("examples.png")
    ```
    """
    if not 0 < len(images) == len(targets):
        raise ValueError(
            "`images` and `targets` must have the same length, at least 1. "
            f"Received lengths: {len(images)}, {len(targets)}"
        )
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(columns * _INCHES, rows * _INCHES + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    shown = set()
    for number, (image, objects) in enumerate(zip(images, targets, strict=True)):
        size = f"{image.shape[1]} x {image.shape[0]} px, boxes"
        shown |= draw_boxes(axes[number], size, image, objects, class_names)
    for axis in axes:
        axis.set_axis_off()
    draw_legend(figure, shown, class_names)
    return figure
