"""Ground truth and detections next to each other."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

_MAX_LABELLED = 12  # with more boxes in a picture, their texts would cover it
_INCHES = 3.2  # side of one picture


def plot_detections(
    images: Sequence[np.ndarray],
    y_true: Sequence[dict[str, Any]],
    y_pred: Sequence[dict[str, Any]],
    class_names: Sequence[str] | None = None,
    score_threshold: float = 0.3,
    columns: int = 2,
) -> Figure:
    """Draws images in pairs: on the left the ground truth, on the right the detections.

    A class has the same colour everywhere. Boxes carry their class and confidence unless there are
    so many that the text would hide the picture.

    Args:
        images: RGB images `(H, W, 3)`, values 0..255 of any dtype; a batch, or a list with
            different sizes.
        y_true: For every image a dictionary `{"boxes": (N, 4), "labels": (N,)}`: xyxy pixels of
            that image, label -1 where padded.
        y_pred: For every image the same with `"confidence": (N,)`.
        class_names: The name of each label. Defaults to `None`: the labels themselves.
        score_threshold: Detections with a lower confidence are not drawn. Defaults to `0.3`.
        columns: Number of pairs side by side. Defaults to `2`.

    Returns:
        A matplotlib figure of its own, outside pyplot: it needs no display and no `close`.

    Raises:
        ValueError: If the three sequences differ in length or are empty.

    Example:
    ```python
    truth = {"boxes": np.array([[8.0, 8, 40, 40]]), "labels": np.array([0])}
    found = truth | {"confidence": np.array([0.9])}
    figure = plot_detections([np.zeros((64, 64, 3), "uint8")], [truth], [found], ["circle"])
    figure.savefig("detections.png")
    ```

    Keras' own `plot_bounding_box_gallery` needs OpenCV, images of one size, and draws both kinds of
    boxes into one picture.
    """
    if not 0 < len(images) == len(y_true) == len(y_pred):
        raise ValueError(
            "`images`, `y_true` and `y_pred` must have the same length, at least 1. "
            f"Received lengths: {len(images)}, {len(y_true)}, {len(y_pred)}"
        )
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2 * columns * _INCHES, rows * _INCHES + 0.6), layout="constrained")
    axes = figure.subplots(rows, 2 * columns, squeeze=False).reshape(-1, 2)
    shown = set()
    for (left, right), image, truth, found in zip(axes, images, y_true, y_pred, strict=False):
        shown |= draw_boxes(left, "ground truth", image, truth, class_names)
        scores = np.asarray(found["confidence"])
        order = np.argsort(scores, kind="stable")  # the most confident is drawn last, on top
        order = order[scores[order] >= score_threshold]
        found = {key: np.asarray(found[key])[order] for key in ("boxes", "labels", "confidence")}
        shown |= draw_boxes(right, f"detections ≥ {score_threshold:.2g}", image, found, class_names)
    for axis in axes.flat:
        axis.set_axis_off()
    draw_legend(figure, shown, class_names)
    return figure


def draw_boxes(axis, title, image, objects, class_names) -> set[int]:
    """Draws an image with its boxes and returns the labels it drew."""
    axis.imshow(np.clip(np.asarray(image), 0, 255).astype("uint8"))
    labels = np.asarray(objects["labels"]).astype(int)
    count = int((labels >= 0).sum())
    axis.set_title(f"{title}: {count}", fontsize=9)
    scores = objects.get("confidence", [None] * len(labels))
    for box, label, score in zip(np.asarray(objects["boxes"]), labels, scores, strict=True):
        if label < 0:
            continue
        (x1, y1, x2, y2), colour = box, _colour(label)
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=colour, lw=1.6))
        if count <= _MAX_LABELLED:
            text = _name(label, class_names) + ("" if score is None else f" {score:.2f}")
            axis.text(
                x1,
                max(y1, 0.06 * image.shape[0]),  # inside the picture also at its upper edge
                text,
                fontsize=6.5,
                color="white",
                verticalalignment="bottom",
                clip_on=True,
                bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.8},
            )
    return set(labels[labels >= 0].tolist())


def draw_legend(figure, labels, class_names) -> None:
    """Draws the colours of labels below a figure."""
    handles = [Patch(color=_colour(c), label=_name(c, class_names)) for c in sorted(labels)]
    if handles:
        figure.legend(handles=handles[:20], loc="outside lower center", ncols=min(10, len(handles)))


def _colour(label: int):
    return matplotlib.colormaps["tab10"](label % 10)


def _name(label: int, class_names) -> str:
    return str(label) if class_names is None else class_names[label]
