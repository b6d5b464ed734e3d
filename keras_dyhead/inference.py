"""A detector on images as they are: preprocessed its own way, boxes in the image's own pixels."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_dyhead.coco.annotations import CocoAnnotations
from keras_dyhead.coco.image_files import read_image
from keras_dyhead.coco.metrics import coco_metrics
from keras_dyhead.detectors.detector import Detector
from keras_dyhead.export import serving

SUFFIXES = (".jpg", ".jpeg", ".png")


def image_detector(model: Detector) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Compiles a detector into a function of one image.

    Each image goes through the model by itself, at the size and with the padding that
    `model.preprocessor` gives it: so published figures are measured. The result is the same in
    whatever company an image comes, which in batches it is not: DyHead averages over the padding.

    Args:
        model: A detector of this package.

    Returns:
        A function from an RGB image `(H, W, 3)`, uint8, of any size, to the dict `{"boxes": (N, 4)
        float32, "labels": (N,) int32, "confidence": (N,) float32}` of the N detections, by
        descending confidence, boxes xyxy in pixels of the image and clipped to it.

    Example:
    ```python
    detect = image_detector(model)
    detect(np.zeros((480, 640, 3), "uint8"))["boxes"]
    ```
    """

    @tf.function(input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)])
    def run(image):
        return serving.detect(model, model.preprocessor(image[None]))

    def detect(image):
        found = {key: value[0].numpy() for key, value in run(image).items()}
        count, (height, width) = found.pop("num_detections"), image.shape[:2]
        found = {key: value[:count] for key, value in found.items()}
        return found | {"boxes": np.clip(found["boxes"], 0, [width, height] * 2, dtype="float32")}

    return detect


def read_rgb(path: str | os.PathLike) -> np.ndarray:
    """Reads a JPEG or PNG file as `(H, W, 3)` uint8; an EXIF orientation is not applied.

    Raises:
        ValueError: If it cannot be read; the message names the file.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        return read_image(tf.constant(os.fspath(path))).numpy()
    except tf.errors.OpError as error:
        reason = error.message.split("}} ")[-1].splitlines()[0]
        raise ValueError(f"{path} is no readable JPEG or PNG image: {reason}") from None


def evaluate_images(
    model: Detector,
    annotations: CocoAnnotations,
    progress: Callable[[Sequence], Iterator] = iter,
) -> tuple[dict[str, float], list[dict]]:
    """Evaluates a detector on image files by COCO's rules, each at the size its model wants.

    Args:
        model: A detector of this package.
        annotations: The images and what is in them, with as many classes as the model has: its
            labels in the order of `annotations.class_names`.
        progress: Wraps the list of images while it is gone through. Defaults to `iter`.

    Returns:
        The twelve COCO figures (see `coco_metrics`), and the detections in COCO's results format.

    Raises:
        ValueError: If the number of classes differs.

    Example:
    ```python
    annotations = CocoAnnotations("val.json", "val", class_names=model.class_names)
    figures, results = evaluate_images(model, annotations)
    ```
    """
    if len(annotations.class_names) != model.num_classes:
        raise ValueError(
            f"The model has {model.num_classes} classes, the annotations have "
            f"{len(annotations.class_names)}: {annotations.class_names[:20]}"
        )
    detect, results = image_detector(model), []
    for image in progress(annotations.images):
        found = detect(read_rgb(image.path))
        boxes = found["boxes"].astype("float64")
        boxes[:, 2:] -= boxes[:, :2]  # to x, y, width, height
        rows = zip(boxes.tolist(), found["labels"], found["confidence"], strict=True)
        results += [
            {
                "image_id": image.id,
                "category_id": annotations.category_ids[label],
                "bbox": box,
                "score": float(score),
            }
            for box, label, score in rows
            if min(box[2:]) > 0
        ]
    return coco_metrics(annotations.ground_truth(), results), results
