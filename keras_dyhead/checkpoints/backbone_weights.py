"""Loads weights of ImageNet or of another detector into a backbone."""

import re
from collections.abc import Mapping

import keras
import numpy as np

from keras_dyhead.backbones import ResNetBackbone, SwinBackbone
from keras_dyhead.checkpoints import tables
from keras_dyhead.checkpoints.state_dict import read_state_dict
from keras_dyhead.checkpoints.transfer import Part, copy_tensors, weights_by_path
from keras_dyhead.printable import counted

# A tensor name that only one naming scheme has -> the table of that scheme.
_RESNET = {
    "res2.0.conv1.weight": tables.RESNET_DETECTRON2,
    "layer1.0.conv1.weight": tables.RESNET_TORCHVISION,
}
_SWIN = {
    "stages.0.downsample.reduction.weight": tables.SWIN_MMDET,
    "features.0.0.weight": tables.SWIN_TORCHVISION,
    "layers.0.downsample.reduction.weight": tables.SWIN_MICROSOFT,
    "layers.3.downsample.reduction.weight": tables.SWIN_TIMM,
}


def load_backbone_weights(backbone: keras.Model, path) -> keras.Model:
    """Sets a backbone's weights from a PyTorch checkpoint.

    The names of torchvision, timm, mmdet, detectron2 (ResNet) and Microsoft (Swin) are recognized.
    Classifiers are ignored, as is everything outside the backbone of a whole detector, where the
    backbone's names have a prefix. Normalizations of Swin's outputs and offset convolutions of
    ResNet's deformable stages, which ImageNet weights lack, do not change if the file has none.

    Args:
        backbone: A `ResNetBackbone` or `SwinBackbone` with the depth and width of the file's.
        path: Path of a `.pth` or `.safetensors` file, or a mapping of tensor name to array.

    Returns:
        The same backbone.

    Raises:
        TypeError: If the backbone is of another class.
        ValueError: If names are unknown or do not fit (see the message). Nothing is changed then.

    Example:
    ```python
    backbone = load_backbone_weights(ResNetBackbone(50), "resnet50-11ad3fa6.pth")
    model = ATSS(backbone, num_classes=20)
    ```
    """
    if isinstance(backbone, ResNetBackbone):
        namings = _RESNET
    elif isinstance(backbone, SwinBackbone):
        namings = _SWIN
    else:
        raise TypeError(
            f"`backbone` must be a ResNetBackbone or a SwinBackbone. Received: {type(backbone)}"
        )
    state = read_state_dict(path)
    prefix, table = _find_backbone(state, namings)
    state = {name: state[name] for name in state if name.startswith(prefix)}
    copy_tensors(
        [backbone_part(backbone, table, prefix, optional=(r"norm\d+/.*", r".*/offset_conv/.*"))],
        state,
        (*tables.UNUSED, *tables.UNUSED_CLASSIFIER),
        "checkpoint",
    )
    return backbone


def backbone_part(
    backbone: keras.Model, table: Mapping[str, str], prefix: str, optional=()
) -> Part:
    """Returns a backbone's weights and its table as a `Part`."""
    reorder = {}
    if table is tables.SWIN_MMDET:
        reorder = {r"stage\d+_downsample/(norm|reduction)/.*": _unfold_to_blocks}
    return Part(weights_by_path(backbone), table, prefix, reorder, optional)


def _unfold_to_blocks(array: np.ndarray) -> np.ndarray:
    """Reorders the last axis from `4 * c + 2 * row + column` to `(2 * column + row) * C + c`."""
    *outer, features = array.shape
    array = array.reshape(*outer, features // 4, 2, 2)
    return np.moveaxis(array, -3, -1).swapaxes(-3, -2).reshape(*outer, features)


def _find_backbone(state, namings):
    found = {
        (match[1], name)
        for name in namings
        for match in (re.fullmatch(rf"((?:.*\.)?){re.escape(name)}", key) for key in state)
        if match
    }
    if len(found) != 1:
        raise ValueError(
            f"The names must be those of one backbone: one of {list(namings)}, with or without a "
            f"prefix. Received: {counted(len(state), 'tensor')}, such as {list(state)[:3]}, with "
            f"{sorted(prefix + name for prefix, name in found) or 'none of these'}"
        )
    ((prefix, name),) = found
    return prefix, namings[name]
