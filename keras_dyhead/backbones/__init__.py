"""Backbones of published detectors: images in, maps of strides 4 to 32 out.

Layers are named after the published modules, so a weight's `path` shows which tensor it comes from
(`L` numbers ResNet's stages from 1, `S` Swin's from 0, `N` blocks from 0):

| `ResNetBackbone` | torchvision, mmdet | detectron2 |
|---|---|---|
| `conv1/kernel` | `conv1.weight` | `stem.conv1.weight` |
| `bn1/{gamma,beta,moving_mean,moving_variance}` | `bn1.*` | `stem.conv1.norm.*` |
| `layerL_N_conv1/kernel` (2, 3) | `layerL.N.conv1.weight` | `res(L+1).N.conv1.weight` |
| `layerL_N_conv2/offset_conv/{kernel,bias}` | `...conv2.conv_offset.*` | `...conv2_offset.*` |
| `layerL_N_bn1/...` (2, 3) | `layerL.N.bn1.*` | `res(L+1).N.conv1.norm.*` |
| `layerL_N_downsample_conv/...` | `layerL.N.downsample.0.*` | `res(L+1).N.shortcut.*` |
| `layerL_N_downsample_bn/...` | `layerL.N.downsample.1.*` | `res(L+1).N.shortcut.norm.*` |

| `SwinBackbone` | Microsoft | mmdet |
|---|---|---|
| `patch_embed/proj/{kernel,bias}` | `patch_embed.proj.*` | `patch_embed.projection.*` |
| `patch_embed/norm/{gamma,beta}` | `patch_embed.norm.*` | `patch_embed.norm.*` |
| `stageS_blockN/norm1/...` (norm2) | `layers.S.blocks.N.norm1.*` | `stages.S.blocks.N.norm1.*` |
| `stageS_blockN/attn/relative_position_bias_table` | `...attn.` | `...attn.w_msa.` |
| `stageS_blockN/attn/qkv/...` (proj) | `...attn.qkv.*` | `...attn.w_msa.qkv.*` |
| `stageS_blockN/{fc1,fc2}/{kernel,bias}` | `...mlp.{fc1,fc2}.*` | `...ffn.layers.{0.0,1}.*` |
| `stageS_downsample/norm/...` | `layers.S.downsample.norm.*` | `stages.S.downsample.norm.*` |
| `stageS_downsample/reduction/kernel` | `layers.S.downsample.reduction.*` | `stages.S...` |
| `normS/{gamma,beta}` | `normS.*` | `normS.*` |

Convolution kernels are HWIO instead of PyTorch's OIHW, matrices are `(in, out)` instead of
`(out, in)`. Patch merging orders the four pixels of a patch as Microsoft, timm and torchvision do;
mmdet's tensors need the permutation described in `PatchMerging`.
"""

from keras_dyhead.backbones.frozen_batch_norm import FrozenBatchNormalization
from keras_dyhead.backbones.grouped_conv2d import GroupedConv2D
from keras_dyhead.backbones.resnet import ResNetBackbone
from keras_dyhead.backbones.swin import SwinBackbone
from keras_dyhead.backbones.swin_layers import PatchEmbedding, PatchMerging, SwinBlock

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

__all__ = [
    "BACKBONES",
    "FrozenBatchNormalization",
    "GroupedConv2D",
    "PatchEmbedding",
    "PatchMerging",
    "ResNetBackbone",
    "SwinBackbone",
    "SwinBlock",
]
