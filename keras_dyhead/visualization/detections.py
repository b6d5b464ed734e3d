"""Grids of images with boxes: ground truth, detections and training examples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from keras_dyhead.ops.arguments import check
from keras_dyhead.visualization.colors import class_color
from keras_dyhead.visualization.pictures import arrays_of, class_name, draw_detections

_MAX_LABELLED = 12  # with more boxes, their labels would cover the picture
_INCHES = 3.2  # side of a picture


def plot_detections(
    images: Sequence[np.ndarray],
    y_true: Sequence[dict[str, Any]],
    y_pred: Sequence[dict[str, Any]],
    class_names: Sequence[str] | None = None,
    score_threshold: float = 0.3,
) -> Figure:
    """Draws images in pairs: on the left the ground truth, on the right the detections.

    A class has the same color everywhere. Boxes show class and confidence unless there are many.

    Args:
        images: RGB images `(H, W, 3)`, values 0..255 of any dtype; a batch, or a list with
            different sizes.
        y_true: For each image a dictionary `{"boxes": (N, 4), "labels": (N,)}`: xyxy pixels of
            that image, label -1 for padding.
        y_pred: For each image the same with `"confidence": (N,)`.
        class_names: The name of each label. Defaults to `None`: the labels themselves.
        score_threshold: Detections with a lower confidence are not drawn. Defaults to `0.3`.

    Returns:
        A matplotlib figure outside pyplot, which needs no display and no `close`.

    Raises:
        ValueError: If the three sequences differ in length or are empty, or detections have no
            confidence.

    Example:
    ```python
    truth = {"boxes": np.array([[8.0, 8, 40, 40]]), "labels": np.array([0])}
    found = truth | {"confidence": np.array([0.9])}
    figure = plot_detections([np.zeros((64, 64, 3), "uint8")], [truth], [found], ["circle"])
    figure.savefig("detections.png")
    ```

    Keras' `plot_bounding_box_gallery` needs OpenCV and images of one size, and draws both kinds of
    boxes into the same picture.
    """
    _check_lengths(images=images, y_true=y_true, y_pred=y_pred)
    titles = "ground truth", f"detections ≥ {score_threshold:.2g}"
    pictures = []
    for image, truth, found in zip(images, y_true, y_pred, strict=True):
        check("y_pred", list(found), "confidence" in found, "dictionaries with a confidence")
        truth = {name: truth[name] for name in ("boxes", "labels")}
        pictures += [(titles[0], image, truth), (titles[1], image, found)]
    return _draw_grid(pictures, 2 * min(2, len(images)), class_names, score_threshold)


def plot_examples(
    images: Sequence[np.ndarray],
    targets: Sequence[dict[str, Any]],
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Draws training images with their boxes in a grid.

    `targets` are like `y_true` in `plot_detections`.
    """
    _check_lengths(images=images, targets=targets)
    pictures = [
        (f"{image.shape[1]} x {image.shape[0]} px, boxes", image, objects)
        for image, objects in zip(images, targets, strict=True)
    ]
    return _draw_grid(pictures, min(4, len(images)), class_names)


def _check_lengths(**sequences: Sequence) -> None:
    lengths = [len(sequence) for sequence in sequences.values()]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise ValueError(
            f"{', '.join(sequences)} must have the same length, at least 1. "
            f"Received lengths: {', '.join(map(str, lengths))}"
        )


def _draw_grid(pictures: list[tuple], columns: int, class_names, score_threshold=0) -> Figure:
    """Draws (title, image, objects) row by row, with a legend below."""
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(columns * _INCHES, rows * _INCHES + 0.6), layout="constrained")
    axes, shown = figure.subplots(rows, columns, squeeze=False), set()
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (title, image, objects) in zip(axes.flat, pictures, strict=False):
        _, labels, scores = arrays_of(objects)
        labels = labels[(labels >= 0) & (scores >= score_threshold)].tolist()
        few = len(labels) <= _MAX_LABELLED
        drawn = draw_detections(image, objects, class_names, score_threshold, few)
        axis.imshow(drawn, extent=(0, image.shape[1], image.shape[0], 0))
        axis.set_title(f"{title}: {len(labels)}", fontsize=9)
        shown.update(labels)
    patches = [Patch(color=np.array(class_color(label)) / 255) for label in sorted(shown)]
    names = [class_name(label, class_names) for label in sorted(shown)]
    if patches:
        fitting = int(columns * _INCHES / (0.55 + 0.08 * max(map(len, names))))
        lines = -(-len(names) // fitting)
        figure.set_figheight(rows * _INCHES + 0.3 + 0.2 * lines)
        options = {"ncols": -(-len(names) // lines), "fontsize": 8}
        add_legend(figure, patches, names, loc="outside lower center", **options)
    return figure


def add_legend(figure: Figure, handles: Sequence, names: Sequence[str], **options) -> None:
    """Adds a legend of user-defined names, which may start with _ or contain a $."""
    legend = figure.legend(handles, ["-"] * len(names), **options)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set(text=name, parse_math=False)
