"""Backbones of published detectors: images in, maps of strides 4 to 32 out.

Layers are named after the published modules, so a weight's `path` shows which tensor it comes from:
`keras_dyhead/checkpoints/tables.py` lists the names in torchvision, detectron2, mmdetection, timm
and Microsoft's Swin.

Convolution kernels are HWIO instead of PyTorch's OIHW, matrices are `(in, out)` instead of
`(out, in)`. `PatchMerging` (`swin_layers.py`) describes how mmdet orders the pixels of a patch.
"""

from keras_dyhead.backbones.resnet import ResNetBackbone
from keras_dyhead.backbones.swin import SwinBackbone

_RESNEXT = {"depth": 101, "groups": 64, "width_per_group": 4}
BACKBONES = {
    "resnet18": (ResNetBackbone, {"depth": 18}),
    "resnet50": (ResNetBackbone, {"depth": 50}),
    "resnet101": (ResNetBackbone, {"depth": 101}),
    "resnext101_64x4d": (ResNetBackbone, _RESNEXT),
    "resnext101_64x4d_dcn": (ResNetBackbone, _RESNEXT | {"deformable_stages": (3, 4, 5)}),
    "swin_tiny": (SwinBackbone, {}),
}
"""Classes and arguments of the backbones that settings and the command line refer to by name."""

__all__ = ["BACKBONES", "ResNetBackbone", "SwinBackbone"]
