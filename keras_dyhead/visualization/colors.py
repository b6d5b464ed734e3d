"""Distinguishable colors for classes."""

import functools

import numpy as np

# Linear sRGB -> cone responses -> OKLab, whose distances match human perception.
# Source: https://bottosson.github.io/posts/oklab/
_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def class_color(label: int) -> tuple[int, int, int]:
    """Returns the (red, green, blue) color of a class, the same in every picture.

    Each label has the color farthest from those of all lower labels, among colors that are neither
    gray nor too dark or too light to be visible in a photograph. Colors repeat from label 96 on.
    """
    return _palette()[label % 96]


def text_color(color: tuple[int, int, int]) -> str:
    """Returns black or white, whichever is easier to read on the color."""
    return "white" if _oklab(np.array(color) / 255)[0] < 0.68 else "black"


@functools.cache
def _palette() -> list[tuple[int, int, int]]:
    levels = np.linspace(0, 1, 11)
    colors = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    seen = _oklab(colors)
    usable = (abs(seen[:, 0] - 0.72) < 0.23) & (np.hypot(seen[:, 1], seen[:, 2]) > 0.1)
    colors, seen = colors[usable], seen[usable]
    chosen = [int(np.argmax(seen[:, 1]))]  # the reddest
    nearest = np.full(len(seen), np.inf)
    while len(chosen) < 96:
        nearest = np.minimum(nearest, np.linalg.norm(seen - seen[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(nearest)))
    return [tuple(color) for color in np.round(255 * colors[chosen]).astype(int).tolist()]


def _oklab(colors: np.ndarray) -> np.ndarray:
    linear = np.where(colors > 0.04045, ((colors + 0.055) / 1.055) ** 2.4, colors / 12.92)
    return np.cbrt(linear @ _CONES.T) @ _LAB.T
