"""Gives detectors of KerasCV and KerasHub the interface of this package's detectors."""

import functools

import keras
import numpy as np
from keras import ops

from keras_dyhead.detectors.decoding import DetectionDecoder
from keras_dyhead.detectors.detector import Detector
from keras_dyhead.detectors.preprocessor import DetectionPreprocessor

_HOSTS = (
    ("keras_cv", "RetinaNet"),
    ("keras_cv", "YOLOV8Detector"),
    ("keras_hub", "RetinaNetObjectDetector"),
)


def is_hosted(model) -> bool:
    """Whether `HostedDetector` accepts a model; imports none of the other packages."""
    classes = {(cls.__module__.split(".")[0], cls.__name__) for cls in type(model).__mro__}
    return not classes.isdisjoint(_HOSTS)


class HostedDetector:
    """Gives a detector of another package the preprocessing, outputs and detections of this one.

    Detections are those of the detector's `predict`, in the format of `Detector.decode`: xyxy boxes
    clipped to the image, without boxes outside it; empty places have box 0, label -1 and confidence
    0. Non-maximum suppression is this package's, which all runtimes support. KerasHub's leaves out
    boxes above or left of the image before it counts to `max_detections`, this one after it.

    Args:
        model: RetinaNet or YOLOV8 of KerasCV, or RetinaNet of KerasHub, with or without DyHead.

    Raises:
        TypeError: If the model's `prediction_decoder` is not a `NonMaxSuppression`.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.suppression = model.prediction_decoder
        if type(self.suppression).__name__ != "NonMaxSuppression":
            raise TypeError(
                "The detector's `prediction_decoder` must be a `NonMaxSuppression`. "
                f"Received: {self.suppression}"
            )
        # Replaces `suppression` in `decode_predictions`, which then returns all candidates.
        self._candidates = functools.partial(_candidates, self.suppression)
        self._candidates.bounding_box_format = self.suppression.bounding_box_format
        self.decoder = DetectionDecoder(
            iou_threshold=self.suppression.iou_threshold,
            max_detections=self.suppression.max_detections,
            clip="after_nms",
        )
        self.num_classes = model.num_classes
        self.class_names = getattr(model, "class_names", None)
        self.image_shape = tuple(model.inputs[0].shape[1:])
        self.preprocessor = _preprocessor(model, self.image_shape)

    def __call__(self, images, training=False):
        """Returns the raw outputs, and the images, whose size decoding needs."""
        return self.model(images, training=training), images

    @property
    def variables(self) -> list[keras.Variable]:
        return self.model.variables

    detect = Detector.detect

    def decode(self, raw, image_sizes) -> dict:
        """Returns detections in preprocessed images; see `Detector.decode`."""
        outputs, images = raw
        height, width = images.shape[1:3]
        self.model._prediction_decoder = self._candidates  # a setter would drop compiled functions
        try:
            found = self.model.decode_predictions(outputs, images)
        finally:
            self.model._prediction_decoder = self.suppression
        boxes = keras.utils.bounding_boxes.convert_format(
            ops.cast(found["boxes"], "float32"),
            source=self.model.bounding_box_format,
            target="xyxy",
            height=height,
            width=width,
        )
        labels, scores = found["labels"], found["confidence"]
        everything = ops.zeros_like(labels)  # these detectors suppress across classes
        return self.decoder.suppress(boxes, scores, labels, image_sizes, everything)


def _candidates(suppression, boxes, scores, **others):
    """Returns all boxes with their best class; confidences up to the threshold become 0."""
    if suppression.from_logits:
        scores = ops.sigmoid(scores)
    scores = ops.cast(scores, "float32")
    confidence, labels = (x[..., 0] for x in ops.top_k(scores, 1))
    confident = confidence > suppression.confidence_threshold
    return {
        "boxes": boxes,
        "labels": ops.cast(labels, "int32"),
        "confidence": ops.where(confident, confidence, 0.0),
    }


def _preprocessor(model, image_shape) -> DetectionPreprocessor:
    """Fits images into the detector's size, and rescales them only as a KerasHub preset does."""
    converter = getattr(getattr(model, "preprocessor", None), "image_converter", None)
    scale, offset = (getattr(converter, name, None) for name in ("scale", "offset"))
    scale = np.broadcast_to(1.0 if scale is None else scale, 3).astype("float64")
    offset = np.broadcast_to(0.0 if offset is None else offset, 3).astype("float64")
    size = None if None in image_shape[:2] else image_shape[:2]
    mean, std = (-offset / scale + 0.0).tolist(), (1 / scale).tolist()
    return DetectionPreprocessor(image_size=size, mean=mean, std=std)
