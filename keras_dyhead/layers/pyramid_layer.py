"""Layers on several maps, which are checked in every call, be they tensors or symbols."""

import re
from collections.abc import Mapping

from keras_dyhead.layers.frozen import CompositeLayer


class PyramidLayer(CompositeLayer):
    """A layer on a list, or a dict by level, of maps `(B, H_l, W_l, C_l)`.

    What it takes is said by `check_levels`, which a subclass calls when it is built.
    """

    def __call__(self, inputs, *args, **kwargs):
        """Calls the layer, after a look at the shapes of the maps."""
        if self.built:  # else `build` looks
            self.check_levels(_shapes(inputs))
        return super().__call__(inputs, *args, **kwargs)

    def check_levels(self, shapes) -> dict:
        """Returns the shapes of a pyramid's maps by level.

        Raises:
            ValueError: If they are no maps of one batch that halve in size, fine to coarse.
        """
        levels = check_maps(shapes)
        check_halving(levels)
        return levels


def listed(pyramid) -> list:
    """Returns the maps of a pyramid."""
    return list(pyramid.values() if isinstance(pyramid, Mapping) else pyramid)


def check_maps(shapes) -> dict:
    """Returns the shapes of maps by name or number.

    Raises:
        ValueError: If there are none, or one is no map of known channels, or of another batch.
    """
    levels = shapes if isinstance(shapes, Mapping) else dict(enumerate(shapes or ()))
    # TensorFlow's shapes are sequences, and no tuples.
    levels = {name: tuple(s) if hasattr(s, "__len__") else s for name, s in levels.items()}
    maps = [s for s in levels.values() if isinstance(s, tuple) and len(s) == 4]
    batches = {shape[0] for shape in maps} - {None}
    if not 0 < len(maps) == len(levels) or None in {s[3] for s in maps} or len(batches) > 1:
        raise ValueError(
            "Maps must have shape (batch, height, width, channels), of one batch and with known "
            "channels; a pyramid must be a list or a dict of them, with at least one level. "
            f"Received: shapes {shapes}"
        )
    return levels


def check_halving(levels: Mapping, round_down: bool = True) -> None:
    """Checks that every map is half the size of the one before, as far as sizes are known.

    Halves are rounded up, or down where `round_down` allows it. Levels called P and a number must
    be in the order of their numbers.

    Raises:
        ValueError: If one is not; the message shows all of them.
    """
    shapes = list(levels.values())
    numbers = [int(name[1:]) for name in levels if re.fullmatch(r"P\d+", str(name))]
    halve = all(
        large is None or small is None or small in (-(-large // 2), large // 2)[: 1 + round_down]
        for finer, coarser in zip(shapes, shapes[1:], strict=False)
        for large, small in zip(finer[1:3], coarser[1:3], strict=True)
    )
    if not halve or numbers != sorted(numbers):
        raise ValueError(
            "The maps of a pyramid must halve in size from level to level, fine to coarse, rounded "
            f"up. Received: shapes {dict(levels)}"
        )


def _shapes(inputs):
    """Returns the same structure with shapes for tensors."""
    if isinstance(inputs, Mapping):
        return {name: _shapes(x) for name, x in inputs.items()}
    if isinstance(inputs, list | tuple):
        return list(map(_shapes, inputs))
    return tuple(getattr(inputs, "shape", ()))
