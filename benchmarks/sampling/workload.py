"""Seeded inputs and weights, the same for every implementation."""

import dataclasses
import math

import numpy as np

LEVELS = range(3, 8)


@dataclasses.dataclass(frozen=True)
class Workload:
    """Sizes of the single operation and of the tower.

    The operation runs on the finest level, stride 8; the tower on five levels, strides 8 to 128.

    Args:
        height: Image height in pixels. Defaults to 512.
        width: Image width in pixels. Defaults to 512.
        blocks: Blocks of the tower. Defaults to 6.
        batch: Batch size. Defaults to 1.
        channels: Channels of every map, a multiple of 16. Defaults to 256.
        dtype: Dtype of maps and products: `"float32"`, or for keras_dyhead also `"bfloat16"`.
    """

    height: int = 512
    width: int = 512
    blocks: int = 6
    batch: int = 1
    channels: int = 256
    dtype: str = "float32"

    def __post_init__(self):
        for name in ("height", "width", "blocks", "batch", "channels"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {name}={value}")
        if self.channels % 16:
            raise ValueError(f"`channels` must be a multiple of 16. Received: {self.channels}")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"`dtype` must be float32 or bfloat16. Received: {self.dtype}")

    def map_size(self, level: int) -> tuple[int, int]:
        """Returns height and width of a level, rounded up."""
        return math.ceil(self.height / 2**level), math.ceil(self.width / 2**level)

    def op_arrays(self) -> list[np.ndarray]:
        """Returns input, offsets, mask and kernel of the single operation, channels-last."""
        rng, size = np.random.default_rng(0), (self.batch, *self.map_size(LEVELS[0]))
        shapes = ((*size, self.channels), (*size, 18), (*size, 9), (3, 3, *[self.channels] * 2))
        x, offsets, mask, kernel = (rng.normal(size=s).astype("float32") for s in shapes)
        return [x, offsets, 1 / (1 + np.exp(-mask)), kernel / np.float32(3 * self.channels**0.5)]

    def pyramid(self) -> list[np.ndarray]:
        """Returns the maps of all levels, channels-last."""
        rng = np.random.default_rng(0)
        shapes = [(self.batch, *self.map_size(level), self.channels) for level in LEVELS]
        return [rng.normal(size=shape).astype("float32") for shape in shapes]

    def tower_state(self) -> dict[str, np.ndarray]:
        """Returns the weights of the tower under their published names."""
        rng, c = np.random.default_rng(1), self.channels
        shapes = {
            **{f"DyConv.{i}.conv.weight": (c, c, 3, 3) for i in range(3)},
            **{f"DyConv.{i}.{n}": (c,) for i in range(3) for n in ("conv.bias", "bn.bias")},
            **{f"DyConv.{i}.bn.weight": (c,) for i in range(3)},
            "AttnConv.1.weight": (1, c, 1, 1),
            "AttnConv.1.bias": (1,),
            "relu.fc.0.weight": (c // 4, c),
            "relu.fc.0.bias": (c // 4,),
            "relu.fc.2.weight": (4 * c, c // 4),
            "relu.fc.2.bias": (4 * c,),
            "offset.weight": (27, c, 3, 3),
            "offset.bias": (27,),
        }
        return {
            f"dyhead_tower.{block}.{name}": (
                rng.normal(size=shape) / np.sqrt(np.prod(shape[1:])) + name.endswith("bn.weight")
            ).astype("float32")
            for block in range(self.blocks)
            for name, shape in shapes.items()
        }
