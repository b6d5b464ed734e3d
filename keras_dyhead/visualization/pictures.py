"""Detections drawn into the image itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont


def draw_detections(
    image: np.ndarray,
    detections: Mapping[str, np.ndarray],
    class_names: Sequence[str] | None = None,
    score_threshold: float = 0.3,
) -> Image.Image:
    """Draws boxes, classes and confidences at the image's own resolution.

    A class has the same colour everywhere; the most confident detection is drawn last, on top.

    Args:
        image: RGB image `(H, W, 3)`, values 0..255.
        detections: `"boxes"` `(N, 4)` xyxy pixels, `"labels"` `(N,)` (-1 where padded) and
            `"confidence"` `(N,)`.
        class_names: The name of each label. Defaults to `None`: the labels themselves.
        score_threshold: Detections with a lower confidence are not drawn. Defaults to `0.3`.

    Returns:
        A Pillow image of the same size.

    Example:
    ```python
    found = {"boxes": np.array([[8.0, 8, 40, 40]]), "labels": [0], "confidence": [0.9]}
    draw_detections(np.zeros((64, 64, 3), "uint8"), found, ["circle"]).save("found.png")
    ```
    """
    picture = Image.fromarray(np.asarray(image, "uint8"))
    draw = ImageDraw.Draw(picture)
    side = max(picture.size)
    width, font = max(1, side // 400), ImageFont.load_default(max(10, side // 60))
    for i in np.argsort(detections["confidence"], kind="stable"):
        label, score = int(detections["labels"][i]), float(detections["confidence"][i])
        if label < 0 or score < score_threshold:
            continue
        box = [float(value) for value in detections["boxes"][i]]
        colour = matplotlib.colormaps["tab10"](label % 10, bytes=True)
        colour = tuple(int(value) for value in colour[:3])
        draw.rectangle(box, outline=colour, width=width)
        name = str(label) if class_names is None else class_names[label]
        text = f"{name} {score:.2f}"
        _, _, text_width, text_height = draw.textbbox((0, 0), text, font)
        left = max(0.0, min(box[0], picture.width - text_width))  # readable at every edge
        upper = max(0.0, box[1] - text_height)
        draw.rectangle((left, upper, left + text_width, upper + text_height), fill=colour)
        draw.text((left, upper), text, "white", font)
    return picture


def unique_stems(paths: Sequence[str | Path]) -> list[str]:
    """The file names without suffix, numbered where files of different folders are called alike."""
    stems = []
    for path in paths:
        first, number = Path(path).stem, 1
        stem = first
        while stem in stems:
            number += 1
            stem = f"{first}_{number}"
        stems.append(stem)
    return stems
