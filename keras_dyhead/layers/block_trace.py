"""The intermediate results of a block."""

from typing import Any, NamedTuple


class BlockTrace(NamedTuple):
    """All intermediate results of a `DyHeadBlock`, in order of computation.

    Every attribute is a list with one entry per level, fine to coarse. A *branch* is what a level
    gets from itself (`"mid"`), from the finer level (`"low"`) or from the coarser level (`"high"`).
    The finest level has no `"low"`, the coarsest has no `"high"`.

    Attributes:
        inputs: Maps `(B, H_l, W_l, C)`: the inputs of the block.
        offsets: `(B, H_l, W_l, 9, 2)`: displacement of each of the nine taps from the regular grid,
            (y, x) in pixels of the sampled map. Zero without spatial-aware attention.
        masks: `(B, H_l, W_l, 9)`: factor in [0, 1] of each tap. One without spatial-aware
            attention.
        branches: Dicts of sampled and normalized maps `(B, H_l, W_l, channels)`.
        spatial: Maps after spatial-aware attention alone: the mean of the branches.
        weights: Dicts of `(B,)`: weight of each branch in scale-aware attention. One without it.
        scale: Maps after scale-aware attention: the mean of the weighted branches.
        outputs: Maps after task-aware attention: the outputs of the block.
    """

    inputs: list[Any]
    offsets: list[Any]
    masks: list[Any]
    branches: list[dict[str, Any]]
    spatial: list[Any]
    weights: list[dict[str, Any]]
    scale: list[Any]
    outputs: list[Any]
