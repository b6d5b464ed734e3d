"""Loads a published checkpoint as a Keras model."""

import importlib
import json
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from keras_dyhead.checkpoints import tables
from keras_dyhead.checkpoints.backbone_weights import backbone_part
from keras_dyhead.checkpoints.coco_classes import COCO_CLASSES
from keras_dyhead.checkpoints.fetch import fetch_checkpoint
from keras_dyhead.checkpoints.published import (
    COMPOSED,
    MICROSOFT,
    OPENMMLAB,
    PUBLISHED,
    PublishedModel,
)
from keras_dyhead.checkpoints.state_dict import read_checkpoint
from keras_dyhead.checkpoints.tower import tower_part
from keras_dyhead.checkpoints.transfer import Part, copy_tensors, weights_by_path
from keras_dyhead.detectors import Detector
from keras_dyhead.integrations.hosted import HostedDetector, is_hosted
from keras_dyhead.ops.arguments import check_choice
from keras_dyhead.printable import counted

# For each part of a detector: the prefix of its tensor names, and the table for the rest.
_NAMES = {
    MICROSOFT: {
        "ResNetBackbone": ("backbone.backbone.bottom_up.", tables.RESNET_DETECTRON2),
        "SwinBackbone": ("backbone.backbone.bottom_up.", tables.SWIN_MICROSOFT),
        "feature_pyramid": ("backbone.backbone.", tables.FPN_DETECTRON2),
        "retinanet": ("head.", tables.RETINANET_DETECTRON2),
        "atss": ("head.", tables.ATSS_MICROSOFT),
        "faster-rcnn": ("", tables.RCNN_DETECTRON2),
    },
    OPENMMLAB: {
        "ResNetBackbone": ("backbone.", tables.RESNET_TORCHVISION),
        "SwinBackbone": ("backbone.", tables.SWIN_MMDET),
        "feature_pyramid": ("neck.0.", tables.FPN_MMDET),
        "feature_pyramid of faster-rcnn": ("neck.0.", tables.FPN_MMDET_FROM_P2),
        "retinanet": ("bbox_head.", tables.RETINANET_MMDET),
        "atss": ("bbox_head.", tables.ATSS_MMDET),
        "reppoints": ("bbox_head.", tables.REPPOINTS_MMDET),
        "faster-rcnn": ("", tables.RCNN_MMDET),
        "fcos": ("bbox_head.", tables.FCOS_MMDET),
    },
}


def load_checkpoint(name: str, path=None, image_shape=(None, None, 3), dtype=None):
    """Builds a published detector and sets its weights from a checkpoint file.

    The model computes what the original does, from preprocessing (`model.preprocessor`) to
    decoding (`model.decoder`).

    Args:
        name: One of `PUBLISHED` or `COMPOSED`, the name of the original config.
        path: Path of a checkpoint of this model (see `read_state_dict`), the published one or one
            that you trained, with any number of classes; or a mapping of tensor name to array in
            PyTorch's layout. Defaults to `None`: the published file, which is downloaded once into
            Keras' cache and verified, see `fetch_checkpoint`.
        image_shape: Shape of a preprocessed image. Defaults to `(None, None, 3)`.
        dtype: Dtype policy of all layers. Defaults to the global policy.

    Returns:
        The detector, a `keras.Model`. Its `class_names` come from the file (mmdetection's `meta`).
        Without them, they are `keras_dyhead.coco.COCO_CLASSES` for 80 classes, else `None`.

    Raises:
        ConnectionError: If the download fails. The message says where to put the file instead.
        ValueError: If the name is unknown, or the tensors are not exactly those of the model. The
            message lists missing, unused and differing tensors.

    Example:
    ```python
    model = load_checkpoint("dyhead_r50_atss_fpn_1x")
    batch = model.preprocessor([image])  # an RGB image (H, W, 3), values 0..255
    detections = model.decode(model(batch["images"]), batch["image_sizes"])
    model.save("dyhead_r50_atss_fpn_1x.keras")
    ```
    """
    known = PUBLISHED | COMPOSED
    check_choice("name", name, list(known))
    record = known[name]
    if path is None:
        if record.source is None:
            raise ValueError(
                f"No weights of {name!r} are published: pass the `path` of your own checkpoint."
            )
        path = fetch_checkpoint(record.source)
    state, class_names = read_checkpoint(path)
    num_classes = count_classes(record, state)
    model = record.build(image_shape, dtype, None, num_classes=num_classes)
    parts = detector_parts(model, record, state)
    set_ones = {id(variable) for part in parts for variable in part.weights.values()}
    left = [weight.path for weight in model.weights if id(weight) not in set_ones]
    left = [path for path in left if not path.endswith("running_positives")]  # state of the loss
    if left:
        raise ValueError(f"No checkpoint contains these weights of {name!r}: {left}")
    copy_tensors(parts, state, tables.UNUSED, f"checkpoint for {name!r}")
    model.class_names = fitting_names(class_names, num_classes)
    return model


def load_detector(source, hosted: bool = False) -> Detector | HostedDetector:
    """Loads a detector from a `.keras` file, or a published one by its name.

    Args:
        source: Path of a `.keras` file, or one of `PUBLISHED` (see `load_checkpoint`).
        hosted: Whether detectors of KerasCV and KerasHub are allowed. Defaults to `False`.

    Returns:
        The detector, not compiled. One of KerasCV or KerasHub is returned as a `HostedDetector`.

    Raises:
        ConnectionError: If the published file cannot be downloaded.
        ImportError: If the file needs KerasCV or KerasHub, but they cannot be imported.
        ValueError: If `source` is neither a file nor a published name, or not of a detector.

    Example:
    ```python
    model = load_detector("dyhead_r50_atss_fpn_1x").with_classes(("cat", "dog"))
    ```
    """
    if source in PUBLISHED:
        return load_checkpoint(source)
    # Registers the classes that the file needs.
    modules = r"'module': '((?:keras_dyhead\.integrations\.)?keras_(?:cv|hub))"
    for module in set(re.findall(modules, str(stored_config(source)))):
        try:
            importlib.import_module(module)
        except ImportError as error:
            package = module.rpartition(".")[-1].replace("_", "-")
            raise ImportError(
                f"{source} needs {package} (`pip install {package}`), which cannot be imported: "
                f"{error}"
            ) from error
    try:
        model = keras.saving.load_model(source, compile=False)
    except Exception as error:  # damaged files raise different errors in different versions
        raise ValueError(f"{source} is not a model that Keras can load: {error}") from None
    if hosted and is_hosted(model):
        return HostedDetector(model)
    if not isinstance(model, Detector):
        advice = ". Load it with `keras.saving.load_model`." if is_hosted(model) else ""
        raise ValueError(
            f"{source} must contain a keras_dyhead detector. Received: a "
            f"{type(model).__name__}{advice}"
        )
    return model


def stored_config(path) -> dict:
    """Returns the configuration in a `.keras` file."""
    if not Path(path).is_file():
        raise ValueError(
            f"There is no file {path}, and no published model of that name. "
            f"Published models: {list(PUBLISHED)}"
        )
    try:
        with zipfile.ZipFile(path) as file:
            return json.loads(file.read("config.json"))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a model that Keras can load: {error}") from None


def detector_parts(model, record: PublishedModel, state: Mapping) -> list[Part]:
    """Returns all weights of a detector with the tables of a published record.

    The DyHead tower is found in `state`.
    """
    names = _NAMES[record.origin]

    def part(layer, naming):
        prefix, table = names[naming]
        reorder = {"box_head/fc1/kernel": _to_channels_last}
        return Part(weights_by_path(layer), table, prefix, reorder)

    prefix, table = names[record.backbone]
    pyramid = f"feature_pyramid of {record.detector}"
    return [
        backbone_part(model.backbone, table, prefix),
        part(model.pyramid, pyramid if pyramid in names else "feature_pyramid"),
        tower_part(model.neck, state),
        part(model.head, record.detector),
    ]


def count_classes(record: PublishedModel, state: Mapping) -> int:
    """Returns the number of classes of the tensors, or COCO's if they are of another model."""
    prefix, table = _NAMES[record.origin][record.detector]

    def rows(layer):
        name = next((prefix + table[path] for path in table if path.endswith(layer)), "")
        bias = state.get(f"{name}.bias")
        return None if bias is None else len(bias)

    scores, boxes = rows("class_logits"), rows("box_deltas") or 4
    if scores is None or boxes % 4:
        return len(COCO_CLASSES)
    if record.detector != "faster-rcnn":
        return max(1, scores // (boxes // 4))  # one per anchor
    if boxes != 4 * (scores - 1):
        raise ValueError(
            f"Faster R-CNN must have a box for every class, and a score for every class and the "
            f"background. Received: {counted(boxes // 4, 'box')}, {counted(scores, 'score')}"
        )
    return scores - 1


def fitting_names(names: Sequence[str] | None, num_classes: int) -> Sequence[str] | None:
    """Returns the names of the file or COCO's, or `None` if their number does not fit."""
    if names is None and num_classes == len(COCO_CLASSES):
        return COCO_CLASSES
    if names is not None and len(names) != num_classes:
        warnings.warn(
            f"The checkpoint names {counted(len(names), 'class')}, but its tensors are for "
            f"{num_classes}. The names are ignored.",
            UserWarning,
            stacklevel=3,
        )
        return None
    return names


def _to_channels_last(array: np.ndarray, size: int = 7) -> np.ndarray:
    """Reorders the inputs of a dense layer from (C, size, size) to (size, size, C)."""
    units = len(array)
    return array.reshape(units, -1, size, size).transpose(0, 2, 3, 1).reshape(units, -1)
