"""Loads the tensors of a published DyHead tower into a `DyHeadNeck`."""

import re
from collections.abc import Mapping

import numpy as np

from keras_dyhead.checkpoints.state_dict import read_state_dict
from keras_dyhead.checkpoints.transfer import Part, copy_tensors, weights_by_path
from keras_dyhead.layers.dyhead_neck import DyHeadNeck
from keras_dyhead.layers.start import SCALE
from keras_dyhead.printable import counted

# Layers and weights of a block: our names -> names in the state dict (see `transfer.Part`).
MICROSOFT_BLOCK = {
    "spatial_attention/offset_conv": "offset",
    "spatial_attention/high_kernel": "DyConv.0.conv.weight",
    "spatial_attention/high_bias": "DyConv.0.conv.bias",
    "spatial_attention/high_gamma": "DyConv.0.bn.weight",
    "spatial_attention/high_beta": "DyConv.0.bn.bias",
    "spatial_attention/mid_kernel": "DyConv.1.conv.weight",
    "spatial_attention/mid_bias": "DyConv.1.conv.bias",
    "spatial_attention/mid_gamma": "DyConv.1.bn.weight",
    "spatial_attention/mid_beta": "DyConv.1.bn.bias",
    "spatial_attention/low_kernel": "DyConv.2.conv.weight",
    "spatial_attention/low_bias": "DyConv.2.conv.bias",
    "spatial_attention/low_gamma": "DyConv.2.bn.weight",
    "spatial_attention/low_beta": "DyConv.2.bn.bias",
    "scale_attention/gate": "AttnConv.1",
    "task_attention/squeeze": "relu.fc.0",
    "task_attention/excite": "relu.fc.2",
}
OPENMMLAB_BLOCK = {
    "spatial_attention/offset_conv": "spatial_conv_offset",
    "spatial_attention/high_kernel": "spatial_conv_high.conv.weight",
    "spatial_attention/high_gamma": "spatial_conv_high.norm.weight",
    "spatial_attention/high_beta": "spatial_conv_high.norm.bias",
    "spatial_attention/mid_kernel": "spatial_conv_mid.conv.weight",
    "spatial_attention/mid_gamma": "spatial_conv_mid.norm.weight",
    "spatial_attention/mid_beta": "spatial_conv_mid.norm.bias",
    "spatial_attention/low_kernel": "spatial_conv_low.conv.weight",
    "spatial_attention/low_gamma": "spatial_conv_low.norm.weight",
    "spatial_attention/low_beta": "spatial_conv_low.norm.bias",
    "scale_attention/gate": "scale_attn_module.1",
    "task_attention/squeeze": "task_attn_module.conv1.conv",
    "task_attention/excite": "task_attn_module.conv2.conv",
}
_TOWERS = {"dyhead_tower": MICROSOFT_BLOCK, "dyhead_blocks": OPENMMLAB_BLOCK}


def load_tower(neck: DyHeadNeck, state) -> DyHeadNeck:
    """Copies the weights of a published DyHead tower into a built neck.

    The state may be that of a whole detector: keys outside the tower are ignored. Microsoft's keys
    contain `dyhead_tower.<N>.`, OpenMMLab's `dyhead_blocks.<N>.`. Both were trained with
    `alignment="published"`. OpenMMLab's need `use_bias=False`.

    Args:
        neck: Built `DyHeadNeck` with as many blocks and channels as the tower.
        state: Path of a checkpoint, or mapping of tensor name to array in PyTorch layout
            (convolutions OIHW, linear OI).

    Returns:
        The same neck.

    Raises:
        ValueError: If the neck is not built, if there is no tower or more than one, or if a tensor
            is missing, unused or of another shape. The neck is then unchanged.

    Example:

    >>> neck = DyHeadNeck(num_blocks=6, alignment="published")
    >>> neck.build({f"P{i}": (None, None, None, 256) for i in range(3, 8)})
    >>> load_tower(neck, "dyhead_r50_atss_fpn_1x.pth")  # doctest: +SKIP (needs the file)

    Source: names as built by microsoft/DynamicHead and mmdetection 3.3.
    """
    if not neck.built:
        raise ValueError(f"`neck` must be built before weights are loaded. Received: {neck}")
    state = read_state_dict(state)
    part = tower_part(neck, state)
    tower = {name: state[name] for name in state if name.startswith(part.prefix)}
    copy_tensors([part], tower, what=f"tower under {part.prefix!r}")
    return neck


def tower_part(neck: DyHeadNeck, state: Mapping[str, np.ndarray]) -> Part:
    """Returns a built neck's weights with the table of the tower in the state.

    Raises:
        ValueError: If there is no tower or more than one, or `use_bias` is wrong for it.
    """
    matches = (re.match(r"((?:.*\.)?(dyhead_tower|dyhead_blocks)\.)\d+\.", key) for key in state)
    found = {match.groups() for match in matches if match}
    if len(found) != 1:
        raise ValueError(
            "The state must hold one tower, with keys like 'dyhead_tower.0.offset.weight' or "
            "'dyhead_blocks.0.spatial_conv_offset.weight'. Received: "
            f"{counted(len(state), 'key')} with {sorted(p for p, _ in found) or 'no tower'}"
        )
    ((prefix, name),) = found
    block = _TOWERS[name]
    use_bias = "spatial_attention/mid_bias" in block
    if neck.use_bias != use_bias:
        raise ValueError(
            f"The weights under {prefix!r} need a neck with `use_bias={use_bias}`. "
            f"Received: use_bias={neck.use_bias}"
        )
    table = {f"block_{{n}}/{ours}": f"{{n}}.{theirs}" for ours, theirs in block.items()}
    # A neck that starts near the identity divides the output of these convolutions.
    reorder = {}
    if neck.start == "identity":
        reorder[r"block_\d+/spatial_attention/offset_conv/\w+"] = lambda array: array * SCALE
    return Part(weights_by_path(neck), table, prefix, reorder)
