"""State dicts of published models, generated from the names of their tensors."""

import re
import zlib

import numpy as np


def generated_weight(key, shape):
    """The rule by which reference data and tests make a tensor from its name and shape."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    values = np.asarray(generator.standard_normal(shape), "float32")
    if len(shape) >= 2:
        return values * np.float32(np.sqrt(1 / np.prod(shape[1:])))
    if key.endswith("running_var"):
        return np.exp(np.float32(0.1) * values)
    if key.endswith("weight") or shape == () or (shape == (1,) and "scale" in key):
        return 1 + np.float32(0.1) * values
    return np.float32(0.05) * values


def microsoft_tower(channels, blocks, prefix="dyhead_tower.", offset_conv_zeroed=False, factors=()):
    """State dict of a microsoft/DynamicHead tower; `factors`: (pattern, "mul" or "set", number)."""
    c = channels
    shapes = {
        **{f"DyConv.{i}.conv.weight": (c, c, 3, 3) for i in range(3)},
        **{
            f"DyConv.{i}.{n}": (c,) for i in range(3) for n in ("conv.bias", "bn.weight", "bn.bias")
        },
        "AttnConv.1.weight": (1, c, 1, 1),
        "AttnConv.1.bias": (1,),
        "relu.fc.0.weight": (c // 4, c),
        "relu.fc.0.bias": (c // 4,),
        "relu.fc.2.weight": (4 * c, c // 4),
        "relu.fc.2.bias": (4 * c,),
        "offset.weight": (27, c, 3, 3),
        "offset.bias": (27,),
    }
    return _generate(shapes, blocks, prefix, offset_conv_zeroed, factors)


def openmmlab_tower(channels, blocks, prefix="neck.1.dyhead_blocks."):
    """State dict of an OpenMMLab (mmdet 3.x) DyHead neck."""
    c = channels
    branches = ("high", "mid", "low")
    shapes = {
        **{f"spatial_conv_{b}.conv.weight": (c, c, 3, 3) for b in branches},
        **{f"spatial_conv_{b}.norm.{n}": (c,) for b in branches for n in ("weight", "bias")},
        "spatial_conv_offset.weight": (27, c, 3, 3),
        "spatial_conv_offset.bias": (27,),
        "scale_attn_module.1.weight": (1, c, 1, 1),
        "scale_attn_module.1.bias": (1,),
        "task_attn_module.conv1.conv.weight": (c // 4, c, 1, 1),
        "task_attn_module.conv1.conv.bias": (c // 4,),
        "task_attn_module.conv2.conv.weight": (4 * c, c // 4, 1, 1),
        "task_attn_module.conv2.conv.bias": (4 * c,),
    }
    return _generate(shapes, blocks, prefix)


def _generate(shapes, blocks, prefix, offset_conv_zeroed=False, factors=()):
    state = {}
    for block in range(blocks):
        for name, shape in shapes.items():
            key = f"{prefix}{block}.{name}"
            value = generated_weight(key, shape)
            if offset_conv_zeroed and ".offset." in key:
                value = np.zeros_like(value)
            for pattern, operation, number in factors or ():
                if re.search(pattern, key):
                    number = np.float32(number)
                    value = value * number if operation == "mul" else np.full_like(value, number)
            state[key] = value
    return state


def published_state(shapes, stem_factor=1.0):
    """State dict of a whole published model, from the shapes of its tensors by name.

    Counters and index tables are no weights: they are zeros. `stem_factor` is 1/64 for ResNets that
    get undivided pixels, whose generated offsets would all point out of the image otherwise.
    """
    state = {}
    for key, shape in shapes.items():
        if key.endswith(("num_batches_tracked", "relative_position_index")):
            state[key] = np.zeros(shape, "int64")
            continue
        state[key] = generated_weight(key, tuple(shape))
        if key in ("backbone.conv1.weight", "backbone.backbone.bottom_up.stem.conv1.weight"):
            state[key] *= np.float32(stem_factor)
    return state
