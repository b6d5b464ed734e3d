"""Detection in single images of any size, with boxes in pixels of the image."""

import os
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_dyhead.coco.image_files import as_rgb, read_rgb
from keras_dyhead.detectors.detector import Detector
from keras_dyhead.inference.several_views import TestTimeAugmentation
from keras_dyhead.inference.tiles import Tiles
from keras_dyhead.integrations.hosted import HostedDetector, is_hosted
from keras_dyhead.ops.arguments import check

_PLAIN = TestTimeAugmentation(scales=(1.0,), horizontal_flip=False)


def image_detector(
    model: Detector | HostedDetector | keras.Model,
    tta: TestTimeAugmentation | None = None,
    tiles: Tiles | None = None,
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Compiles a detector into a function of one image.

    Each image passes through the model alone, with the size and padding that `model.preprocessor`
    sets, as published metrics are measured. The result never depends on other images. In batches
    it does, because DyHead averages over the padding. Settings of the model, such as its `decoder`,
    are read when the function is created: create another one after a change.

    Args:
        model: A detector of this package, or one of KerasCV or KerasHub built for images of one
            size, see `HostedDetector`.
        tta: The views to detect in and how to merge them. A model built for images of one size is
            copied for other scales. Defaults to `None`: the unchanged image only.
        tiles: How to cut large images into tiles, each of which is a separate image for the
            detector. Defaults to `None`: no tiles.

    Returns:
        A function of one image of any size. It returns the dict `{"boxes": (N, 4) float32,
        "labels": (N,) int32, "confidence": (N,) float32}` by descending confidence, with boxes in
        xyxy pixels of the image and clipped to it. The image is RGB `(H, W, 3)`, gray `(H, W)` or
        `(H, W, 1)`, or RGBA `(H, W, 4)`, with values from 0 to 255 of any dtype. Other
        arrays, such as values from 0 to 1, raise a `ValueError`. The function has the attributes
        `num_classes` and `class_names` of the model.

    Raises:
        TypeError: If `model` is not a supported detector.
        ValueError: If `tta` or `tiles` is of another class, a model of KerasCV or KerasHub has no
            fixed input size, or it or a backbone for images of one size gets other scales.

    Example:
    ```python
    detect = image_detector(model, tta=TestTimeAugmentation(scales=(1.0, 1.5)))
    detect(np.zeros((480, 640, 3), "uint8"))["boxes"]
    ```
    """
    model = HostedDetector(model) if is_hosted(model) else model
    if not isinstance(model, Detector | HostedDetector):
        raise TypeError(
            "`model` must be a detector of this package, KerasCV or KerasHub. "
            f"Received: model={model!r}"
        )
    check("tta", tta, isinstance(tta, TestTimeAugmentation | None), "a TestTimeAugmentation")
    check("tiles", tiles, isinstance(tiles, Tiles | None), "of the class Tiles")
    tta = _PLAIN if tta is None else tta
    if isinstance(model, HostedDetector) and (None in model.image_shape or tta.scales != (1.0,)):
        raise ValueError(
            "Detectors of KerasCV and KerasHub must have a fixed input size and use only scale 1, "
            "because they compute anchors for one size. "
            f"Received: image_shape={model.image_shape}, scales={tta.scales}"
        )
    resizable = model if tta.scales == (1.0,) else _for_any_size(model)
    plain = _compile(model)
    resized = plain if resizable is model else _compile(resizable)
    sizes = {
        scale: _Size(plain if scale == 1 else resized, _rescaled(model.preprocessor, scale))
        for scale in tta.scales
    }

    def detect_views(image):
        views = [
            tta.select(sizes[scale].detect(image, flipped), scale, sizes[scale].zoom(image))
            for scale, flipped in tta.views
        ]
        return tta.combine(views, model.decoder.max_detections)

    def detect(image):
        image = as_rgb(image)
        if tiles is None:
            return detect_views(image)
        return tiles.detect(
            detect_views, image, model.decoder.iou_threshold, model.decoder.max_detections
        )

    detect.num_classes = model.num_classes
    detect.class_names = model.class_names
    return detect


def detect_images(
    model: Detector | HostedDetector | keras.Model,
    images: Sequence[np.ndarray | str | os.PathLike],
    tta: TestTimeAugmentation | None = None,
    tiles: Tiles | None = None,
) -> list[dict[str, np.ndarray]]:
    """Detects objects in images of any size, one image at a time.

    Args:
        model: A detector, see `image_detector`.
        images: Arrays as in `image_detector`, or paths of JPEG or PNG files.
        tta: Test-time augmentation, see `image_detector`. Defaults to `None`.
        tiles: Tiles of large images, see `image_detector`. Defaults to `None`.

    Returns:
        The detections of each image, see `image_detector`.

    Raises:
        TypeError: If `images` is a single image or path.
        ValueError: If a file cannot be read, which the message names, or an array is not an image.

    Example:
    ```python
    found = detect_images(model, ["street.jpg"], tta=TestTimeAugmentation())
    found[0]["boxes"], found[0]["confidence"]
    ```
    """
    if not isinstance(images, list | tuple) and not np.ndim(images) == 4:
        raise TypeError(
            f"`images` must be a list of images or paths. Received: a {type(images).__name__}"
        )
    detect = image_detector(model, tta, tiles)
    return [detect(read_rgb(i) if isinstance(i, (str, os.PathLike)) else i) for i in images]


class _Size:
    """A detector at the image size of one preprocessor."""

    def __init__(self, detect_in_batch, preprocessor):
        self.preprocessor = preprocessor
        self.run = lambda image: detect_in_batch(preprocessor(image[None]))
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            signature = [tf.TensorSpec((None, None, 3), tf.uint8)]
            self.run = tf.function(self.run, input_signature=signature)

    def detect(self, image: np.ndarray, flipped: bool) -> dict[str, np.ndarray]:
        """Detections in pixels of the image, also if the detector sees it flipped."""
        found = self.run(image[:, ::-1] if flipped else image)
        found = {key: keras.ops.convert_to_numpy(value)[0] for key, value in found.items()}
        count, (height, width) = found.pop("num_detections"), image.shape[:2]
        found = {key: value[:count] for key, value in found.items()}
        boxes = np.clip(found["boxes"], 0, [width, height] * 2, dtype="float32")
        if flipped:
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        return found | {"boxes": boxes}

    def zoom(self, image: np.ndarray) -> float:
        """The factor by which objects grow, as the geometric mean of both directions."""
        height, width = image.shape[:2]
        resized = self.preprocessor.resized_size(height, width)
        return (resized[0] * resized[1] / (height * width)) ** 0.5


def _compile(model: Detector | HostedDetector):
    """Compiles `model.detect` for the backend. It always uses the model's current weights."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        # One trace serves all image sizes if height and width are dynamic.
        return tf.function(model.detect, autograph=False)
    if backend == "torch":
        import torch

        return torch.no_grad()(model.detect)
    import jax

    @jax.jit
    def detect(values, batch):
        with keras.StatelessScope(list(zip(model.variables, values, strict=True))):
            return model.detect(batch)

    return lambda batch: detect([variable.value for variable in model.variables], batch)


def _rescaled(preprocessor, scale: float):
    """A preprocessor that makes images larger by a factor."""
    if scale == 1:
        return preprocessor
    config = preprocessor.get_config()
    for name in ("min_side", "max_side"):
        config[name] = max(1, round(config[name] * scale))
    if preprocessor.image_size is not None:
        config["image_size"] = [max(1, round(side * scale)) for side in preprocessor.image_size]
    return type(preprocessor).from_config(config)


def _for_any_size(model: Detector) -> Detector:
    """The model itself, or a copy for any size if it is built for one size."""
    resizable = model
    if None not in model.image_shape[:2]:
        config = model.get_config()
        for part in (config, config["backbone"]["config"]):
            if "image_shape" in part:
                part["image_shape"] = (None, None, 3)
        resizable = type(model).from_config(config)
        resizable.set_weights(model.get_weights())
    for images in getattr(resizable.backbone, "inputs", ()):
        if None not in images.shape[1:3]:
            raise ValueError(
                "Scales other than 1 need a backbone for images of any size. "
                f"Received: a backbone for images of shape {tuple(images.shape[1:])}"
            )
    return resizable
