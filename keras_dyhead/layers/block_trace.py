"""What lies between the input and the output of a block."""

from typing import Any, NamedTuple


class BlockTrace(NamedTuple):
    """All steps of a `DyHeadBlock`, in the order in which the block takes them.

    Every attribute is a list with one entry per level, fine to coarse. A *branch* is what a level
    gets from one level of the pyramid: `"mid"` from itself, `"low"` from the finer one, `"high"`
    from the coarser one; the finest level has no `"low"`, the coarsest no `"high"`.

    Attributes:
        inputs: Maps `(B, H_l, W_l, C)` that the block received.
        offsets: `(B, H_l, W_l, 9, 2)`: by how much each of the nine taps is moved from the regular
            grid, (y, x) in pixels of the map it samples. Zero without spatial-aware attention.
        masks: `(B, H_l, W_l, 9)`: the factor in [0, 1] of each tap. One without.
        branches: Dicts of maps `(B, H_l, W_l, channels)`: sampled, normalized, and of the level's
            size.
        spatial: Maps after spatial-aware attention alone: the plain mean of the branches.
        weights: Dicts of `(B,)`: the number that scale-aware attention multiplies each branch by.
            One without.
        scale: Maps after scale-aware attention: the mean of the weighted branches.
        outputs: Maps after task-aware attention: what the block returns.
    """

    inputs: list[Any]
    offsets: list[Any]
    masks: list[Any]
    branches: list[dict[str, Any]]
    spatial: list[Any]
    weights: list[dict[str, Any]]
    scale: list[Any]
    outputs: list[Any]
