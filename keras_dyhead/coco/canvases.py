"""Which canvas each image of a data set goes to."""

from collections.abc import Sequence
from numbers import Integral

import numpy as np


def check_canvases(image_size: Sequence) -> tuple[tuple[int, int], ...]:
    """Returns one or several canvases as a tuple of `(height, width)`.

    Args:
        image_size: One `(height, width)`, or a sequence of them.

    Raises:
        ValueError: If that is not what it is, or a canvas is given twice.
    """
    one = all(isinstance(side, Integral) for side in image_size)
    canvases = (image_size,) if one else image_size
    canvases = tuple(tuple(int(side) for side in canvas) for canvas in canvases)
    wrong = [canvas for canvas in canvases if len(canvas) != 2 or min(canvas) < 1]
    if not canvases or wrong or len(set(canvases)) < len(canvases):
        raise ValueError(
            "`image_size` must be a positive (height, width), or several different ones. "
            f"Received: image_size={image_size}"
        )
    return canvases


def assign_canvases(
    sizes: np.ndarray,
    canvases: Sequence[tuple[int, int]],
    limits: tuple[int, int] | None = None,
) -> np.ndarray:
    """Chooses for each image the canvas in which it is largest, of these the best filled one.

    Args:
        sizes: `(num_images, 2)`, heights and widths.
        canvases: `(height, width)` of each canvas.
        limits: Lengths that the shorter and the longer side must not exceed after resizing, see
            `keras_dyhead.coco.geometry.fitting_factor`. Defaults to `None`.

    Returns:
        The index of a canvas for each image, int64. Of two equals the first one counts.
    """
    sizes = np.asarray(sizes, "float64").reshape(-1, 1, 2)
    shapes = np.asarray(canvases, "float64")
    factors = (shapes / sizes).min(axis=-1)
    if limits is not None:
        factors = np.minimum(factors, limits[0] / sizes.min(axis=-1))
        factors = np.minimum(factors, limits[1] / sizes.max(axis=-1))
    largest = factors >= factors.max(axis=1, keepdims=True) * (1 - 1e-9)
    areas = shapes.prod(axis=-1)
    return np.where(largest, areas, np.inf).argmin(axis=1)
