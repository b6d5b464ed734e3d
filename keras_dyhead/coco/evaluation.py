"""COCO evaluation of any Keras detector, during or after training."""

import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_dyhead.coco.annotations import CocoAnnotations
from keras_dyhead.coco.checks import check_count
from keras_dyhead.coco.detections import DETECTION, detection_records, detection_table, xywh_boxes
from keras_dyhead.coco.fields import id_array
from keras_dyhead.coco.image_files import read_rgb
from keras_dyhead.coco.metrics import CocoResult, check_rules, coco_metrics
from keras_dyhead.detectors.targets import check_classes, check_targets
from keras_dyhead.printable import counted

if TYPE_CHECKING:
    import tensorflow as tf


def evaluate_coco(
    detector: keras.Model | Callable[[np.ndarray], dict[str, np.ndarray]],
    data: "tf.data.Dataset | keras.utils.PyDataset | CocoAnnotations",
    annotations: CocoAnnotations | str | os.PathLike | None = None,
    *,
    max_detections: int = 100,
    size_limits: tuple[float, float] = (32.0, 96.0),
    workers: int | None = None,
    verbose: int = 1,
) -> CocoResult:
    """Evaluates a detector with pycocotools in the coordinates of the original images.

    A model detects in the batches of a dataset, as in `CocoEvaluation` during training. A function
    detects in the image files of a `CocoAnnotations` one at a time, as published metrics are
    measured. `image_detector(model)` returns such a function, which resizes each image for the
    model and supports test-time augmentation.

    Args:
        detector: For a dataset, a model whose `predict` returns `{"boxes", "labels",
            "confidence", "num_detections"}`: detectors of this package, KerasHub and KerasCV (where
            `labels` are `classes`). Its boxes and those of the targets are in the Keras format
            `model.bounding_box_format`, or in `"xyxy"` without that attribute. For a
            `CocoAnnotations`, a function of one image, see `keras_dyhead.inference.image_detector`.
        data: Batches of `(images, targets)` from `load_coco(..., training=False)` or a
            `CocoDataset`, where only the delivered images count; or a `CocoAnnotations` with image
            files and the detector's classes in label order.
        annotations: The ground truth of a dataset, a `CocoAnnotations` or the path of a JSON file.
            `None` uses `data.annotations`, which transformations of a `tf.data` set lose. Without
            it, the ground truth is rebuilt from the targets, without crowd regions and segmentation
            areas. Any dataset with `boxes` and `labels` (or `classes`) works. Defaults to `None`.
        max_detections: Number of detections that count, see `coco_metrics`. The detector must
            return as many, see `DetectionDecoder`. Defaults to `100`.
        size_limits: Limits of small and large objects, see `coco_metrics`. Defaults to `(32, 96)`.
        workers: Number of matching processes, see `coco_metrics`. Defaults to `None`.
        verbose: `1` shows a progress bar, `0` shows nothing. Defaults to `1`.

    Returns:
        The metrics overall and per class, and the detections, see `CocoResult`.

    Raises:
        TypeError: If the detector does not match the data.
        ValueError: If the model's output or the dataset's targets lack a required entry, images
            repeat, targets have labels or boxes that `fit` refuses, or the classes differ in number
            or, if both sides name them, by name.

    Example:
    ```python
    val = load_coco("val", "val.json", batch_size=8, image_size=(512, 512))
    print(evaluate_coco(model, val).figures["AP50"])

    annotations = CocoAnnotations("val.json", "val", class_names=model.class_names)
    result = evaluate_coco(image_detector(model), annotations)
    write_detections(result.detections, "results.json")
    ```
    """
    check_rules(max_detections, size_limits, workers)  # before hours of detection
    if isinstance(detector, keras.Model) == isinstance(data, CocoAnnotations):
        raise TypeError(
            "Evaluate a dataset with a Keras model, and a `CocoAnnotations` with a function of "
            "one image, such as `image_detector(model)`. "
            f"Received: detector={detector!r}, data={data!r}"
        )
    if isinstance(data, CocoAnnotations):
        ground_truth, detections = _detect_in_files(detector, data, verbose)
    else:
        annotations = _find_annotations(data, annotations)
        ground_truth, detections = _detect_in_batches(detector, data, annotations, verbose)
    rules = {"max_detections": max_detections, "size_limits": size_limits, "workers": workers}
    return coco_metrics(ground_truth, detections, **rules)


class CocoEvaluation(keras.callbacks.Callback):
    """Runs pycocotools at the end of epochs and adds the twelve COCO metrics to the logs.

    The history, the progress bar and the callbacks listed after this one (`ModelCheckpoint`,
    `EarlyStopping`, `CSVLogger`) then have `val_AP`, `val_AP50` and so on, see `METRIC_NAMES`.
    Callbacks listed before it do not. A metric is -1 if there is no ground truth of that size.

    Args:
        dataset: The dataset to evaluate on, see `data` in `evaluate_coco`.
        annotations: The ground truth, if the dataset has lost its own. Defaults to `None`.
        eval_freq: Number of epochs per evaluation. The last epoch is always evaluated, also if a
            callback before this one ends training. The logs of other epochs lack the metrics, as
            with `fit`'s `validation_freq`. Defaults to `1`.
        on_result: Called with the epoch, counted from 1, and the `CocoResult`, for example a
            `keras_dyhead.visualization.TensorBoardLog`. Defaults to `None`.
        verbose: `1` shows a progress bar, `0` none, `"auto"` follows `fit`. Defaults to `"auto"`.

    Raises:
        ValueError: If `eval_freq` is less than 1, or as in `evaluate_coco`.

    Example:
    ```python
    val = load_coco("val", "val.json", image_size=(512, 512))
    best = keras.callbacks.ModelCheckpoint("best.keras", "val_AP", mode="max", save_best_only=True)
    history = model.fit(train, epochs=12, callbacks=[CocoEvaluation(val), best])
    print(history.history["val_AP50"])
    ```
    """

    def __init__(
        self,
        dataset: "tf.data.Dataset | keras.utils.PyDataset",
        annotations: CocoAnnotations | str | os.PathLike | None = None,
        *,
        eval_freq: int = 1,
        on_result: Callable[[int, CocoResult], None] | None = None,
        verbose: int | str = "auto",
    ):
        super().__init__()
        check_count(1, eval_freq=eval_freq)
        self.dataset = dataset
        self.annotations = _find_annotations(dataset, annotations)
        self.eval_freq = eval_freq
        self.on_result = on_result
        self.verbose = verbose

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Evaluates, and writes the metrics into `logs`."""
        last = epoch + 1 == self.params.get("epochs") or self.model.stop_training
        if (epoch + 1) % self.eval_freq and not last:
            return
        verbose = self.params.get("verbose", 0) if self.verbose == "auto" else self.verbose
        verbose = 1 if verbose in ("auto", 1) else 0
        if verbose:
            print()  # the progress bar of `fit` has not ended its line
        found = _detect_in_batches(self.model, self.dataset, self.annotations, verbose)
        result = coco_metrics(*found)
        if self.on_result is not None:
            self.on_result(epoch + 1, result)
        if logs is not None:
            logs.update({f"val_{name}": value for name, value in result.figures.items()})


def _find_annotations(
    dataset: "tf.data.Dataset | keras.utils.PyDataset",
    annotations: CocoAnnotations | str | os.PathLike | None,
) -> CocoAnnotations | None:
    """The ground truth of a dataset, see `evaluate_coco`. Checks that the targets match it."""
    annotations = getattr(dataset, "annotations", None) if annotations is None else annotations
    if isinstance(annotations, (str, os.PathLike)):
        annotations = CocoAnnotations(annotations)
    if annotations is not None and not isinstance(annotations, CocoAnnotations):
        raise TypeError(
            "`annotations` must be a CocoAnnotations, a path or None. "
            f"Received: annotations={annotations!r}"
        )
    is_array = isinstance(dataset, keras.utils.PyDataset)
    if not is_array and not hasattr(dataset, "element_spec"):
        raise TypeError(
            f"The dataset must be a `tf.data.Dataset` or a `PyDataset`. Received: {dataset!r:.200}"
        )
    if _num_batches(dataset) is None:
        raise ValueError("The dataset must be finite. Received: one that repeats forever")
    spec = dataset[0] if is_array else dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) < 2 or not isinstance(spec[1], dict):
        spec = type(spec) if is_array else spec
        raise ValueError(f"The dataset must yield (images, targets). Received: {spec}")
    if annotations is not None and "image_id" not in spec[1]:
        raise ValueError(
            "The dataset must yield the `image_id` of each image in the annotations: use "
            "load_coco or CocoDataset with training=False. "
            f"Received: targets with {sorted(spec[1])}"
        )
    if annotations is None and "image_id" in spec[1]:
        warnings.warn(
            "The dataset has lost its COCO annotations. Its targets are the ground truth, without "
            "crowd regions and segmentation areas. Pass `annotations=` to include them.",
            stacklevel=3,
        )
    return annotations


def _detect_in_files(detect, annotations, verbose) -> tuple[dict, np.ndarray]:
    """The ground truth of image files and the detections of a function of one image."""
    check_classes(detect, annotations)
    progress = keras.utils.Progbar(len(annotations.images), verbose=verbose)
    tables = [np.zeros(0, DETECTION)]
    for image in annotations.images:
        found = detect(read_rgb(image.path))
        boxes, labels, scores = (
            _get(found, "The output of the function", name)
            for name in ("boxes", "labels", "confidence")
        )
        shapes = boxes.shape, labels.shape, scores.shape
        count = len(labels)
        if shapes != ((count, 4), (count,), (count,)):
            raise ValueError(
                "The function must return boxes (N, 4), labels (N,) and confidence (N,). "
                f"Received shapes: {shapes}"
            )
        columns = boxes.astype("float64"), labels, scores
        tables.append(_table(id_array([image.id]), *columns, annotations))
        progress.add(1)
    return annotations.ground_truth(), np.concatenate(tables)


def _detect_in_batches(model, dataset, annotations, verbose) -> tuple[dict, np.ndarray]:
    """The ground truth of a dataset's images and a model's detections in them."""
    check_classes(model, annotations or dataset)
    names = {} if annotations is None else {i.number: i.id for i in annotations.images}
    progress = keras.utils.Progbar(_num_batches(dataset) or None, verbose=verbose)
    detections, truths, image_ids, batch_size = [np.zeros(0, DETECTION)], [], [], 0
    for images, targets, *_ in dataset:
        images = np.asarray(images)
        count, *canvas = images.shape[:3]
        # Pads a smaller last batch: a single shape needs a single trace, and KerasHub's
        # non-maximum suppression supports no other.
        batch_size = max(batch_size, count)
        images = np.pad(images, [[0, batch_size - count], [0, 0], [0, 0], [0, 0]])
        found = _predict(model, images)
        targets = {  # ragged targets are padded with -1
            key: np.asarray(values.to_tensor(-1) if hasattr(values, "to_tensor") else values)
            for key, values in targets.items()
        }
        ids = targets.get("image_id", np.arange(len(image_ids), len(image_ids) + count))
        ids = id_array([names.get(number, number) for number in ids.tolist()])
        image_ids += ids.tolist()

        labels = _get(found, "The model's output", "labels", "classes")[:count]
        scores = _get(found, "The model's output", "confidence")[:count]
        boxes = _get(found, "The model's output", "boxes")[:count]
        counts = _get(found, "The model's output", "num_detections")[:count].reshape(-1, 1)
        labels = np.where(np.arange(labels.shape[1]) < counts, labels, -1)
        boxes = _to_original(boxes, model, canvas, targets)
        detections.append(_table(ids[:, None], boxes, labels, scores, annotations))
        if annotations is None:
            labels = _get(targets, "The dataset's targets", "labels", "classes")
            boxes = _get(targets, "The dataset's targets", "boxes")
            boxes = _to_original(boxes, model, canvas, targets)
            if (num_classes := getattr(model, "num_classes", None)) is not None:
                check_targets((images, {"boxes": boxes, "labels": labels}), num_classes)
            truths.append(_table(ids[:, None], boxes, labels, np.ones_like(labels), None))
        progress.add(1)
    if len(set(image_ids)) < len(image_ids):
        raise ValueError("The dataset must yield every image once. Received: repeated images")
    detections = np.concatenate(detections)
    if annotations is not None:
        return annotations.ground_truth(image_ids), detections
    truths = np.concatenate([detections[:0], *truths])
    labels = np.union1d(truths["category_id"], detections["category_id"]).tolist()
    return {
        "images": [{"id": image_id} for image_id in image_ids],
        "annotations": detection_records(truths),
        "categories": [{"id": label} for label in labels],
    }, detections


def _num_batches(dataset) -> int | None:
    """The number of batches in a dataset: `None` if infinite, 0 if unknown."""
    if isinstance(dataset, keras.utils.PyDataset):
        return dataset.num_batches
    cardinality = int(dataset.cardinality())
    return None if cardinality == -1 else max(0, cardinality)


def _predict(model, images: np.ndarray) -> dict:
    """A model's detections in a batch.

    `predict_on_batch` would wrap the images in a tuple, which the hosts' `predict_step` does not
    expect, and pass the whole batch to every replica of a distributed model.
    """
    if keras.backend.backend() != "tensorflow":
        return model.predict(images, batch_size=len(images), verbose=0)
    import tensorflow as tf

    return model.predict(tf.data.Dataset.from_tensors(images), verbose=0)


def _to_original(boxes, model, canvas, targets) -> np.ndarray:
    """Converts boxes to float64 xyxy pixels of the original images and clips them."""
    box_format, (height, width) = getattr(model, "bounding_box_format", "xyxy"), canvas
    boxes = keras.utils.bounding_boxes.convert_format(
        boxes, box_format, "xyxy", height=height, width=width
    )
    scales = targets.get("scale", np.ones((len(boxes), 2)))
    sizes = targets.get("original_size", np.full((len(boxes), 2), canvas))
    boxes = keras.ops.convert_to_numpy(boxes).astype("float64")
    boxes = boxes / np.tile(scales[:, None, ::-1], 2)
    return np.clip(boxes, 0, np.tile(sizes[:, None, ::-1], 2))


def _table(image_ids, boxes, labels, scores, annotations) -> np.ndarray:
    """An array of detections without padding and empty boxes. `boxes` are xyxy."""
    boxes = xywh_boxes(boxes)
    used = (labels >= 0) & np.isfinite(boxes).all(-1) & (boxes[..., 2:] > 0).all(-1)
    category_ids = labels[used].astype("int64")
    if (category_ids != labels[used]).any():
        raise ValueError(f"Labels must be integers. Received: {labels[used][:5].tolist()}")
    if annotations is not None:
        highest, known = category_ids.max(initial=-1), len(annotations.category_ids)
        if highest >= known:
            raise ValueError(
                f"The model found label {highest}, but the annotations have "
                f"{counted(known, 'class')}: {annotations.class_names}"
            )
        category_ids = id_array(annotations.category_ids)[category_ids]
    image_ids = np.broadcast_to(image_ids, used.shape)[used]
    return detection_table(image_ids, category_ids, boxes[used], scores[used])


def _get(values: Any, owner: str, *names: str) -> np.ndarray:
    for name in names:
        if isinstance(values, dict) and name in values:
            return np.asarray(values[name])
    found = sorted(values) if isinstance(values, dict) else type(values).__name__
    raise ValueError(f"{owner} must be a dictionary with {names[0]!r}. Received: {found}")
