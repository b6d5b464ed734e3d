"""Seeded images and boxes, the same for every implementation."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Workload:
    """Images and the structure of the detectors.

    Args:
        height: Image height in pixels. Defaults to 512.
        width: Image width in pixels. Defaults to 512.
        backbone: One of `keras_dyhead.backbones.BACKBONES`. Defaults to `"resnet50"`.
        batch: Batch size. Defaults to 1.
        channels: Channels of pyramid, DyHead and heads. Defaults to 256.
        num_classes: Number of classes. Defaults to 80.
        boxes: Boxes per training image. Defaults to 8.

    Raises:
        ValueError: If a number is too small.
    """

    height: int = 512
    width: int = 512
    backbone: str = "resnet50"
    batch: int = 1
    channels: int = 256
    num_classes: int = 80
    boxes: int = 8

    def __post_init__(self):
        if min(self.height, self.width) < 32 or min(self.batch, self.num_classes, self.boxes) < 1:
            raise ValueError(
                "Images must be at least 32 px high and wide, and every number positive. "
                f"Received: {self}"
            )

    def images(self) -> np.ndarray:
        """Returns preprocessed images `(B, H, W, 3)`, float32."""
        shape = (self.batch, self.height, self.width, 3)
        return np.random.default_rng(0).standard_normal(shape, "float32")

    def targets(self) -> dict[str, np.ndarray]:
        """Returns boxes `(B, N, 4)`, float32 xyxy pixels, and labels `(B, N)`, int32."""
        rng, shape = np.random.default_rng(1), (self.batch, self.boxes)
        size = np.array([self.width, self.height], "float32")
        corner, side = (rng.uniform(low, 0.4, (*shape, 2)) * size for low in (0.0, 0.1))
        boxes = np.concatenate([corner, corner + side], axis=-1).astype("float32")
        return {"boxes": boxes, "labels": rng.integers(0, self.num_classes, shape, "int32")}
