"""Detections drawn into an image."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_dyhead.coco.image_files import as_rgb
from keras_dyhead.ops.arguments import check
from keras_dyhead.printable import counted, printable
from keras_dyhead.visualization.colors import class_color, text_color

_SMALL = 640  # images are enlarged up to this longer side in pixels
_LONGEST_NAME = 30  # characters
_MOST_COVERED = 0.2  # of a picture by labels
_FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")

Box = tuple[float, float, float, float]


def draw_detections(
    image: np.ndarray,
    detections: Mapping[str, np.ndarray],
    class_names: Sequence[str] | None = None,
    score_threshold: float = 0.3,
    labeled: bool = True,
) -> Image.Image:
    """Draws boxes, classes and confidences.

    A class has the same color everywhere. The most confident detection is drawn on top. Labels stay
    inside the picture and, if possible, off objects and each other. They are left out if they would
    cover more than a fifth of the picture.

    Args:
        image: RGB image `(H, W, 3)`, or an RGBA or gray one, values 0..255 of any dtype.
        detections: `"boxes"` `(N, 4)` xyxy pixels, `"labels"` `(N,)` (-1 for padding) and
            `"confidence"` `(N,)`. Without confidences, as in ground truth, all are drawn.
        class_names: The name of each label. Defaults to `None`: the labels themselves.
        score_threshold: Detections with a lower confidence are not drawn. Defaults to `0.3`.
        labeled: Whether to write labels at boxes. Defaults to `True`.

    Returns:
        A Pillow image of the same size. Small images are enlarged by an integer factor to about 640
        pixels on the longer side.

    Raises:
        ValueError: If the image is invalid, the numbers of boxes, labels and confidences differ, a
            confidence is NaN, a box has negative sides, or a label has no name.

    Example:
    ```python
    found = {"boxes": np.array([[8.0, 8, 40, 40]]), "labels": [0], "confidence": [0.9]}
    draw_detections(np.zeros((64, 64, 3), "uint8"), found, ["circle"]).save("found.png")
    ```
    """
    picture = Image.fromarray(as_rgb(image))
    zoom = max(1, round(_SMALL / max(picture.size)))
    picture = picture.resize([side * zoom for side in picture.size], Image.Resampling.BICUBIC)
    draw, side = ImageDraw.Draw(picture), max(picture.size)
    font = ImageFont.truetype(_FONT, max(12, side // 40))
    boxes, labels, scores = arrays_of(detections)
    order = np.argsort(scores, kind="stable")
    shown = order[(labels[order] >= 0) & (scores[order] >= score_threshold)]
    boxes = boxes[shown]
    wrong = ~(boxes[:, 2:] >= boxes[:, :2]).all(axis=1)
    if wrong.any():
        raise ValueError(
            "Boxes must be (left, top, right, bottom) in pixels. "
            f"Received: {boxes[wrong][0].tolist()}"
        )
    taken = [tuple(box) for box in zoom * boxes]
    for i, box in zip(shown, taken, strict=True):
        draw.rectangle(box, outline=class_color(labels[i]), width=max(2, side // 300))
    texts = []
    for i, box in reversed(list(zip(shown, taken, strict=True)) if labeled else []):
        text = class_name(labels[i], class_names)
        text += f" {scores[i]:.2f}" if "confidence" in detections else ""
        left, upper, right, lower = draw.textbbox((0, 0), text, font)
        place = _free_place((right + 4, lower + 2), box, picture.size, taken)
        taken.append(place)
        texts.append((place, text, class_color(labels[i])))
    covered = sum((x2 - x1) * (y2 - y1) for (x1, y1, x2, y2), *_ in texts)
    readable = covered <= _MOST_COVERED * picture.width * picture.height
    for place, text, color in reversed(texts if readable else []):
        draw.rectangle(place, fill=color)
        draw.text((place[0] + 2, place[1]), text, text_color(color), font)
    return picture


def arrays_of(detections: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns boxes, labels and confidences, which are 1 if there are none."""
    labels = np.asarray(detections["labels"]).astype(int)
    scores = np.asarray(detections.get("confidence", np.ones(len(labels))))
    boxes = np.asarray(detections["boxes"], "float64").reshape(-1, 4)
    if not len(boxes) == len(labels) == len(scores):
        raise ValueError(
            "Detections must have as many boxes as labels and confidences. "
            f"Received: {len(boxes)}, {len(labels)} and {len(scores)}"
        )
    check("confidence", scores, not np.isnan(scores).any(), "numbers")
    return boxes, labels, scores


def class_name(label: int, class_names: Sequence[str] | None) -> str:
    """Returns the name of a label on one line, shortened, or the label if there are no names."""
    if class_names is None:
        return str(label)
    if label >= len(class_names):
        names = counted(len(class_names), "name")
        raise ValueError(f"`class_names` has {names}. Received: label {label}")
    name = printable(class_names[label])
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _free_place(size, box: Box, picture: tuple[int, int], taken: Sequence[Box]) -> Box:
    """The rectangle for text next to a box that covers the least of `taken`."""
    (width, height), (x1, y1, x2, y2), taken = size, box, np.array(taken)
    corners = [(x1, y1 - height), (x1, y2), (x2 - width, y1 - height), (x2 - width, y2)]
    corners += [(x1 - width, y1), (x2, y1), (x1, y1)]
    corners = np.clip(corners, 0, np.maximum(np.subtract(picture, size), 0))
    places = np.hstack([corners, corners + size])
    sides = np.minimum(places[:, None, 2:], taken[:, 2:])
    sides -= np.maximum(places[:, None, :2], taken[:, :2])
    covered = np.maximum(sides, 0).prod(axis=-1).sum(axis=1)
    return tuple(places[np.argmin(covered)].tolist())


def unique_stems(paths: Sequence[str | Path]) -> list[str]:
    """Returns file names without suffix. Repeated names are numbered."""
    stems = {}
    for path in paths:
        first, number = Path(path).stem, 1
        stem = first
        while stem in stems:
            number += 1
            stem = f"{first}_{number}"
        stems[stem] = path
    return list(stems)
