"""Training curves, confusion matrices and precision-recall curves."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from pycocotools.mask import iou

from keras_dyhead.coco.annotations import CocoAnnotations
from keras_dyhead.coco.detections import xywh_boxes
from keras_dyhead.visualization.colors import class_color
from keras_dyhead.visualization.detections import add_legend
from keras_dyhead.visualization.pictures import class_name

_CONFIDENCE = 0.3  # minimum of a detection that counts
_IOU = 0.5  # minimum of a pair
_NUMBERED = 20  # classes up to which cells show their counts
_NAMED = 60  # classes up to which rows and columns have names
_CURVES = 20  # classes with a precision-recall curve


def confusion_matrix(annotations: CocoAnnotations, detections: np.ndarray) -> np.ndarray:
    """Counts which classes were detected for the boxes of each class.

    In each image, the box and the detection with the largest IoU are paired, whatever their
    classes, then the next among the remaining ones, down to an IoU of 0.5. Crowd regions are not
    boxes: a detection in them counts as one without an object.

    Args:
        annotations: The ground truth.
        detections: Array of detections, see `CocoResult`. Confidences below 0.3 do not count.

    Returns:
        int64 array `(K + 1, K + 1)`. Rows are true classes, columns detected classes. The last row
        and column stand for nothing.

    Raises:
        ValueError: If the annotations lack the category of a detection.

    Example:
    ```python
    result = evaluate_coco(image_detector(model), annotations)
    confusion_matrix(annotations, result.detections)[0, 1]  # class 0 detected as class 1
    ```
    """
    nothing = len(annotations.class_names)
    counts = np.zeros((nothing + 1, nothing + 1), "int64")
    found = detections[detections["score"] >= _CONFIDENCE]
    labels = np.array(annotations.labels_of(found["category_id"].tolist()), "int64")
    rows_of = defaultdict(list)
    for row, image_id in enumerate(found["image_id"].tolist()):
        rows_of[image_id].append(row)
    for image in annotations.images:
        rows = rows_of[image.id]
        true, detected = image.labels.astype(int), labels[rows]
        truth, boxes = xywh_boxes(image.boxes.astype("float64")), found["bbox"][rows]
        ious = np.asarray(iou(truth, boxes, [False] * len(boxes))).reshape(len(truth), len(boxes))
        while ious.size and ious.max() >= _IOU:
            i, j = np.unravel_index(np.argmax(ious), ious.shape)
            counts[true[i], detected[j]] += 1
            true, detected = np.delete(true, i), np.delete(detected, j)
            ious = np.delete(np.delete(ious, i, axis=0), j, axis=1)
        np.add.at(counts, (true, nothing), 1)
        np.add.at(counts, (nothing, detected), 1)
    return counts


def plot_confusion(matrix: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draws a confusion matrix, with each row as fractions of its sum.

    Args:
        matrix: See `confusion_matrix`.
        class_names: The name of each label.

    Returns:
        A matplotlib figure outside pyplot.

    Raises:
        ValueError: If the matrix is not of these classes and nothing.
    """
    count = len(class_names)
    if np.shape(matrix) != (count + 1, count + 1):
        raise ValueError(
            f"`matrix` must have {count + 1} rows and columns, one for each name and one for "
            f"nothing. Received: shape {np.shape(matrix)}"
        )
    names = [class_name(label, class_names) for label in range(count)] + ["nothing"]
    side = min(12.0, 2.5 + 0.45 * count + 0.08 * max(map(len, names)))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axis = figure.subplots()
    parts = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    drawn = axis.imshow(parts, "Blues", vmin=0, vmax=1)
    if count <= _NAMED:
        axis.set_xticks(range(count + 1), names, rotation=90, parse_math=False)
        axis.set_yticks(range(count + 1), names, parse_math=False)
    for (i, j), number in np.ndenumerate(matrix) if count <= _NUMBERED else ():
        if number:
            color = "white" if parts[i, j] > 0.5 else "black"
            axis.text(j, i, str(number), ha="center", va="center", color=color, fontsize=8)
    axis.set(xlabel="detected", ylabel="ground truth")
    axis.set_title(f"confidence of at least {_CONFIDENCE:g}, IoU {_IOU:g}", fontsize=9)
    figure.colorbar(drawn, label="fraction of the row")
    return figure


def plot_precision_recall(precision: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draws precision over recall at IoU 0.5: the mean and, as curves, the 20 worst classes.

    Args:
        precision: `(101, K)` precision at the recalls 0, 0.01, ..., 1, see `CocoResult`; -1 for
            classes without ground truth.
        class_names: The name of each label.

    Returns:
        A matplotlib figure outside pyplot.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axis, recall = figure.subplots(), np.linspace(0, 1, len(precision))
    known = np.flatnonzero((precision >= 0).all(axis=0))
    means = precision.mean(axis=0)
    lines, names = [], []
    if len(known):
        lines += axis.plot(recall, precision[:, known].mean(axis=1), color="black", lw=2.5)
        names.append(f"mean of {len(known)}: {means[known].mean():.3f}")
    for label in sorted(known, key=lambda label: means[label])[:_CURVES]:
        color = np.array(class_color(int(label))) / 255
        lines += axis.plot(recall, precision[:, label], color=color, lw=1.2)
        names.append(f"{class_name(label, class_names)}: {means[label]:.3f}")
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axis.set_title("IoU 0.5, all sizes; worst classes first", fontsize=9)
    axis.grid(alpha=0.3)
    if lines:
        add_legend(figure, lines, names, loc="outside right upper", fontsize=8)
    return figure


def plot_history(history: Mapping[str, Sequence[float | None]]) -> Figure:
    """Draws the losses and the COCO metrics of a training run over its epochs.

    Args:
        history: The values of every epoch by name, as in `model.fit(...).history`, `None` if a
            value was not computed. Names with `loss` go into the left panel, `AP`, `AP50`, `AP75`
            and `AR100` (with any prefix) into the right one.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, figures = figure.subplots(1, 2)
    for name, values in history.items():
        if "loss" in name:
            _draw(losses, name, values)
        elif name.split("_")[-1] in ("AP", "AP50", "AP75", "AR100"):
            _draw(figures, name, values)
    losses.set(title="loss", xlabel="epoch", ylim=(0, None))
    figures.set(title="COCO metrics", xlabel="epoch", ylim=(0, 1))
    for axis in (losses, figures):
        axis.grid(alpha=0.3)
        axis.locator_params(axis="x", integer=True, min_n_ticks=1)
        if axis.lines:
            axis.legend()
    return figure


def _draw(axis, name, values) -> None:
    values = np.array(values, "float64")  # None becomes NaN
    known = np.isfinite(values)
    few = known.sum() <= 50
    axis.plot(np.flatnonzero(known) + 1, values[known], label=name, marker="." if few else None)
