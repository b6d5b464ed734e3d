"""Layers on several maps that check the shapes in every call, eager or symbolic."""

import re
from collections.abc import Mapping

from keras_dyhead.layers.frozen import CompositeLayer


class PyramidLayer(CompositeLayer):
    """A layer on maps `(B, H_l, W_l, C_l)`, in a list or in a dict by level.

    `check_levels` defines which inputs are valid. Subclasses call it in `build`.
    """

    def __call__(self, inputs, *args, **kwargs):
        """Checks the shapes of the maps and calls the layer."""
        if self.built:  # otherwise `build` checks
            self.check_levels(_shapes(inputs))
        return super().__call__(inputs, *args, **kwargs)

    def check_levels(self, shapes) -> dict:
        """Returns the shapes of a pyramid's maps by level.

        Raises:
            ValueError: If these are not maps of one batch whose sizes halve, fine to coarse.
        """
        levels = check_maps(shapes)
        check_halving(levels)
        return levels

    def compute_output_shape(self, input_shape):
        """Returns the shapes of maps that differ from the inputs only in their `channels`."""
        if isinstance(input_shape, dict):
            return {k: (*shape[:-1], self.channels) for k, shape in input_shape.items()}
        return [(*shape[:-1], self.channels) for shape in input_shape]


def listed(pyramid) -> list:
    """Returns the maps of a pyramid as a list."""
    return list(pyramid.values() if isinstance(pyramid, Mapping) else pyramid)


def check_maps(shapes) -> dict:
    """Returns the shapes of maps by name or number. Raises a `ValueError` if they are not valid."""
    levels = shapes if isinstance(shapes, Mapping) else dict(enumerate(shapes or ()))
    # TensorFlow's shapes are sequences but not tuples.
    levels = {name: tuple(s) if hasattr(s, "__len__") else s for name, s in levels.items()}
    maps = [s for s in levels.values() if isinstance(s, tuple) and len(s) == 4]
    batches = {shape[0] for shape in maps} - {None}
    usable = all(0 not in shape[1:] and shape[3] is not None for shape in maps)
    if not 0 < len(maps) == len(levels) or not usable or len(batches) > 1:
        raise ValueError(
            "Maps must have shape (batch, height, width, channels), equal batch sizes, known "
            "channels and at least one pixel. A pyramid must be a list or a dict of maps with at "
            "least one level. "
            f"Received: shapes {shapes}"
        )
    return levels


def check_halving(levels: Mapping, round_down: bool = True) -> None:
    """Raises a `ValueError` unless each map is half the size of the previous one, where known.

    Halves are rounded up, or also down if `round_down` is true. Levels named P and a number must be
    in ascending order.
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
            f"up{' or down' * round_down}. Received: shapes {dict(levels)}"
        )


def _shapes(inputs):
    """Replaces tensors with their shapes, in the same structure."""
    if isinstance(inputs, Mapping):
        return {name: _shapes(x) for name, x in inputs.items()}
    if isinstance(inputs, list | tuple):
        return list(map(_shapes, inputs))
    return tuple(getattr(inputs, "shape", ()))
