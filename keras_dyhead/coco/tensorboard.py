"""COCO figures and pictures of detections in TensorBoard's event files."""

import io
import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_dyhead.coco.annotations import CocoAnnotations, CocoImage
from keras_dyhead.coco.image_files import read_image

_LONGEST_SIDE = 640  # of one image of a pair


def log_coco(
    log_dir: str | os.PathLike,
    step: int,
    figures: Mapping,
    annotations: CocoAnnotations | None = None,
    detections: np.ndarray | None = None,
    num_pictures: int = 8,
    score_threshold: float = 0.3,
) -> None:
    """Writes the figures of an evaluation, and pictures of some of its images.

    TensorBoard shows the twelve figures as `coco/AP`, ..., the AP of every class as
    `class_AP/NAME`, and the images as `detections/FILE`: on the left what is in it, on the right
    what was found, at most 640 pixels a side each. Only TensorFlow is needed for writing.

    Args:
        log_dir: Folder of the event files.
        step: Where on TensorBoard's axis: the number of the epoch.
        figures: Of `coco_metrics`; those of classes need its `per_class=True`.
        annotations: The ground truth, with image files. Defaults to `None`: no pictures.
        detections: Array of the detections, see `detection_array`. Defaults to `None`.
        num_pictures: Images to draw: the first that have boxes and a file. Defaults to `8`.
        score_threshold: Less confident detections are not drawn. Defaults to `0.3`.

    Example:
    ```python
    figures, found = evaluate_images(model, annotations, per_class=True)
    log_coco("logs", 1, figures, annotations, found)  # tensorboard --logdir logs
    ```
    """
    writer = tf.summary.create_file_writer(os.fspath(log_dir))
    with writer.as_default(step):
        for name, value in figures.items():
            if name != "per_class":
                _write(f"coco/{name}", "scalars", np.float32(value))
        for record in figures.get("per_class", ()):
            _write(f"class_AP/{record['name']}", "scalars", np.float32(record["AP"]))
        if annotations is not None and detections is not None:
            usable = (i for i in annotations.images if len(i.boxes) and i.path.is_file())
            for image, _ in zip(usable, range(num_pictures), strict=False):
                picture = _draw(image, annotations, detections, score_threshold)
                encoded = io.BytesIO()
                picture.save(encoded, "PNG")
                size = [str(side) for side in picture.size]
                name = f"detections/{image.path.name}"
                _write(name, "images", np.array([*size, encoded.getvalue()], object))
    writer.close()


def _write(name: str, plugin: str, value: np.ndarray) -> None:
    """Writes what `tf.summary.scalar` and `image` do, which are errors without TensorBoard."""
    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data={"plugin_name": plugin},
        # 1 and 3 are SCALAR and BLOB_SEQUENCE
        data_class=1 if plugin == "scalars" else 3,
    )
    tf.summary.write(name, value, metadata=metadata)


def _draw(image: CocoImage, annotations, detections, score_threshold) -> Image.Image:
    """The truth beside the detections."""
    # Imported here because visualization shows what every part of the package does.
    from keras_dyhead.visualization.pictures import draw_detections

    found = detections[detections["image_id"] == image.id]
    corners = found["bbox"].copy()
    corners[:, 2:] += corners[:, :2]
    labels = {category_id: label for label, category_id in enumerate(annotations.category_ids)}
    detected = {
        "boxes": corners,
        "labels": [labels[category_id] for category_id in found["category_id"].tolist()],
        "confidence": found["score"],
    }
    truth = {"boxes": image.boxes, "labels": image.labels, "confidence": np.ones(len(image.labels))}
    pixels = read_image(tf.constant(os.fspath(image.path))).numpy()
    pair = []
    for objects in (truth, detected):
        drawn = draw_detections(pixels, objects, annotations.class_names, score_threshold)
        drawn.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        pair.append(np.asarray(drawn))
    return Image.fromarray(np.hstack(pair))
