"""COCO evaluation of a detector, whichever package it comes from."""

import os
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_dyhead.coco.annotations import CocoAnnotations
from keras_dyhead.coco.detections import DETECTION, detection_records, write_detections
from keras_dyhead.coco.metrics import coco_metrics


def evaluate_coco(
    model: keras.Model,
    dataset: tf.data.Dataset,
    annotations: CocoAnnotations | str | os.PathLike | None = None,
    *,
    bounding_box_format: str | None = None,
    results_path: str | os.PathLike | None = None,
    per_class: bool = False,
    workers: int | None = None,
    verbose: int = 1,
) -> dict:
    """Evaluates a detector with pycocotools in the coordinates of the original images.

    Works for every model whose `predict` returns `{"boxes", "labels", "confidence",
    "num_detections"}`: the detectors of this package, KerasHub's, and KerasCV's (which say
    `classes` for `labels`). Only the images that the data set delivers count. Detections take 56
    bytes each until the last image is through.

    The model sees the batches as they come. `keras_dyhead.inference.evaluate_images` has each image
    file resized as the model wants, and knows test-time augmentation.

    Args:
        model: The detector.
        dataset: Batches of `(images, targets)`, from `load_coco(..., training=False)`. Without
            `annotations`, any data set with `boxes` and `labels` (or `classes`) will do.
        annotations: The ground truth, a `CocoAnnotations` or the path of a JSON file. `None`
            takes `dataset.annotations`, which `load_coco` sets and transformations of the data set
            lose. Where that is missing, the ground truth is rebuilt from the targets, which know
            no crowd regions and no segmentation areas. Defaults to `None`.
        bounding_box_format: The format of the model's boxes, and of the targets' where the ground
            truth is rebuilt from them: one of `keras.utils.bounding_boxes.convert_format`. `None`
            takes `model.bounding_box_format`, or `"xyxy"` if there is no such attribute. Defaults
            to `None`.
        results_path: File to write the detections to in the COCO results format. Defaults to
            `None`.
        per_class: Whether to add the figures of every class, see `coco_metrics`. Defaults to
            `False`.
        workers: Processes to match in, see `coco_metrics`. Defaults to `None`.
        verbose: `1` shows a progress bar, `0` nothing. Defaults to `1`.

    Returns:
        The twelve figures by name, see `coco_metrics`.

    Raises:
        ValueError: If the model's output or the data set's targets lack what is needed.

    Example:
    ```python
    dataset = load_coco("val", "val.json", batch_size=8, image_size=(512, 512))
    print(evaluate_coco(model, dataset, results_path="results.json")["AP50"])
    ```
    """
    annotations = find_annotations(dataset, annotations)
    ground_truth, detections = detect_coco(
        model, dataset, annotations, bounding_box_format, verbose
    )
    if results_path is not None:
        write_detections(detections, results_path)
    return coco_metrics(ground_truth, detections, per_class=per_class, workers=workers)


def detect_coco(
    model: keras.Model,
    dataset: tf.data.Dataset,
    annotations: CocoAnnotations | None,
    bounding_box_format: str | None = None,
    verbose: int = 1,
) -> tuple[dict[str, list[dict]], np.ndarray]:
    """Detects in the images of a data set, and tells what is in them.

    Args:
        model: The detector, see `evaluate_coco`, like the other arguments.
        dataset: Batches of `(images, targets)`.
        annotations: The ground truth, as `find_annotations` returns it.
        bounding_box_format: The format of the model's boxes. Defaults to `None`.
        verbose: `1` shows a progress bar, `0` nothing. Defaults to `1`.

    Returns:
        The ground truth and the detections, as `coco_metrics` takes them; the detections an array,
        see `detection_array`.

    Raises:
        ValueError: If the model's output or the targets lack what is needed, or images come twice.
    """
    detections, truths, image_ids = [np.zeros(0, DETECTION)], [], []
    for batch in _detect(model, dataset, bounding_box_format, verbose):
        if annotations is None:
            truths += detection_records(batch.truths())
        image_ids += batch.image_ids.tolist()
        detections.append(batch.detections(annotations))
    if len(set(image_ids)) < len(image_ids):
        raise ValueError("`dataset` must deliver every image once; the one received repeats some.")
    detections = np.concatenate(detections)
    if annotations is not None:
        return annotations.ground_truth(image_ids), detections
    labels = {record["category_id"] for record in truths}
    labels.update(np.unique(detections["category_id"]).tolist())
    return {
        "images": [{"id": image_id} for image_id in image_ids],
        "annotations": truths,
        "categories": [{"id": label} for label in sorted(labels)],
    }, detections


def coco_results(
    model: keras.Model,
    dataset: tf.data.Dataset,
    annotations: CocoAnnotations | str | os.PathLike | None = None,
    *,
    bounding_box_format: str | None = None,
    verbose: int = 1,
) -> list[dict]:
    """Detections of a model in the COCO results format, as evaluation servers take them.

    Args:
        model: The detector, see `evaluate_coco`.
        dataset: Batches of `(images, targets)` from `load_coco(..., training=False)`.
        annotations: What says which category a label is, see `evaluate_coco`. Where there is
            none, labels stand for category ids. Defaults to `None`.
        bounding_box_format: The format of the model's boxes, see `evaluate_coco`. Defaults to
            `None`.
        verbose: `1` shows a progress bar, `0` nothing. Defaults to `1`.

    Returns:
        A list of `{"image_id", "category_id", "bbox", "score"}`, the box as
        `[x, y, width, height]` in pixels of the original image and clipped to it. A box with no
        part inside the image is left out.

    Example:
    ```python
    results = coco_results(model, load_coco("val", "val.json"))
    Path("results.json").write_text(json.dumps(results))
    ```
    """
    annotations = find_annotations(dataset, annotations)
    batches = _detect(model, dataset, bounding_box_format, verbose)
    return [
        record for batch in batches for record in detection_records(batch.detections(annotations))
    ]


class _Batch:
    """Outputs and targets of one batch, with the way back to the original images."""

    def __init__(self, outputs: dict, targets: dict, shape, bounding_box_format, first_id: int):
        self.outputs = outputs
        self.targets = {key: np.asarray(value) for key, value in targets.items()}
        count, self.height, self.width = shape
        self.bounding_box_format = bounding_box_format
        self.image_ids = self.targets.get("image_id", np.arange(first_id, first_id + count))
        self.sizes = self.targets.get(
            "original_size", np.full((count, 2), (self.height, self.width))
        )
        self.scales = self.targets.get("scale", np.ones((count, 2)))

    def detections(self, annotations: CocoAnnotations | None) -> np.ndarray:
        labels = _get(self.outputs, "the model's output", "labels", "classes")
        scores = _get(self.outputs, "the model's output", "confidence")
        boxes = self._to_original(_get(self.outputs, "the model's output", "boxes"))
        counts = _get(self.outputs, "the model's output", "num_detections").reshape(-1)
        used = np.arange(labels.shape[1]) < counts[:, None]
        used &= (labels >= 0) & np.isfinite(boxes).all(-1) & (boxes[..., 2:] > 0).all(-1)
        category_ids = None if annotations is None else annotations.category_ids
        highest = labels[used].max(initial=-1)
        if category_ids is not None and highest >= len(category_ids):
            raise ValueError(
                f"the model found label {int(highest)}, but the annotations have "
                f"{len(category_ids)} classes: {annotations.class_names}"
            )
        return self._table(used, labels, boxes, scores, category_ids)

    def truths(self) -> np.ndarray:
        labels = _get(self.targets, "the data set's targets", "labels", "classes")
        boxes = self._to_original(_get(self.targets, "the data set's targets", "boxes"))
        return self._table(labels >= 0, labels, boxes, np.ones_like(labels), None)

    def _table(self, used, labels, boxes, scores, category_ids) -> np.ndarray:
        """The boxes that are used, image by image."""
        table = np.zeros(np.count_nonzero(used), DETECTION)
        labels = labels[used].astype("int64")
        table["image_id"] = np.broadcast_to(self.image_ids[:, None], used.shape)[used]
        table["category_id"] = labels if category_ids is None else np.take(category_ids, labels)
        table["bbox"], table["score"] = boxes[used], scores[used]
        return table

    def _to_original(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes as `[x, y, width, height]` in the original images, clipped to them."""
        boxes = keras.utils.bounding_boxes.convert_format(
            boxes, self.bounding_box_format, "xyxy", height=self.height, width=self.width
        )
        boxes = keras.ops.convert_to_numpy(boxes).astype("float64")
        boxes = boxes / np.tile(self.scales[:, None, ::-1], 2)
        boxes = np.clip(boxes, 0, np.tile(self.sizes[:, None, ::-1], 2))
        return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def find_annotations(
    dataset: tf.data.Dataset, annotations: CocoAnnotations | str | os.PathLike | None
) -> CocoAnnotations | None:
    """The ground truth of a data set, see `evaluate_coco`; checks that its targets go with it."""
    annotations = getattr(dataset, "annotations", None) if annotations is None else annotations
    if isinstance(annotations, (str, os.PathLike)):
        annotations = CocoAnnotations(annotations)
    if annotations is not None and not isinstance(annotations, CocoAnnotations):
        raise TypeError(
            "`annotations` must be a CocoAnnotations, a path or None. "
            f"Received: annotations={annotations!r}"
        )
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) < 2 or not isinstance(spec[1], dict):
        raise ValueError(f"`dataset` must deliver (images, targets). Received: {spec}")
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("`dataset` must end; the one received repeats forever.")
    if annotations is not None and "image_id" not in spec[1]:
        raise ValueError(
            "`dataset` must deliver an `image_id` for its images to be found in the annotations: "
            f"use load_coco(..., training=False). Received: targets with {sorted(spec[1])}"
        )
    if annotations is None and "image_id" in spec[1]:
        warnings.warn(
            "the data set has lost its COCO annotations: boxes are compared with its targets, "
            "without crowd regions and segmentation areas. Pass `annotations=` to have them.",
            stacklevel=3,
        )
    return annotations


def _detect(model, dataset, bounding_box_format, verbose: int) -> Iterator[_Batch]:
    """Yields the batches of a data set with the model's detections."""
    if bounding_box_format is None:
        bounding_box_format = getattr(model, "bounding_box_format", "xyxy")
    cardinality = int(dataset.cardinality())
    progress = keras.utils.Progbar(cardinality if cardinality > 0 else None, verbose=verbose)
    first_id = batch_size = 0
    for images, targets, *_ in dataset:
        count = int(images.shape[0])
        # A smaller last batch is filled up: one shape for all is one trace, and KerasHub's
        # non-maximum suppression knows no other.
        batch_size = max(batch_size, count)
        images = tf.pad(images, [[0, batch_size - count], [0, 0], [0, 0], [0, 0]])
        # Not `predict_on_batch`: it wraps the images in a tuple, which the hosts' `predict_step`
        # does not expect, and gives every replica of a distributed model the whole batch.
        outputs = model.predict(tf.data.Dataset.from_tensors(images), verbose=0)
        detections = keras.tree.map_structure(lambda value, count=count: value[:count], outputs)
        yield _Batch(
            detections, targets, (count, *images.shape[1:3]), bounding_box_format, first_id
        )
        first_id += count
        progress.add(1)


def _get(values: Any, owner: str, *names: str) -> np.ndarray:
    for name in names:
        if isinstance(values, dict) and name in values:
            return np.asarray(values[name])
    found = sorted(values) if isinstance(values, dict) else type(values).__name__
    raise ValueError(f"{owner} must be a dictionary with {names[0]!r}. Received: {found}")
