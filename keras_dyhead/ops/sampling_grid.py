"""Where the taps of a convolution lie on a map, before offsets."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import ops


class SamplingGrid(NamedTuple):
    """Positions of `P` outputs with `K` taps each on a map, before offsets.

    Attributes:
        y: Pixel coordinate of the first tap of each output, `(P, 1)`, float32.
        x: Likewise.
        taps_y: Distance of each tap from the first, `(K,)`, float32.
        taps_x: Likewise.
        height: Size of the sampled map, `(P, 1)`, int32.
        width: Likewise.
        start: Number of the map's first row among all rows, `(P, 1)`, int32.
        stored_height: Size of the stored map if it is sampled as if enlarged to `height` and
            `width` with aligned corners, `(P, 1)`, int32. `None` if it is sampled as it is.
        stored_width: Likewise.
    """

    y: keras.KerasTensor
    x: keras.KerasTensor
    taps_y: keras.KerasTensor
    taps_x: keras.KerasTensor
    height: keras.KerasTensor
    width: keras.KerasTensor
    start: keras.KerasTensor
    stored_height: keras.KerasTensor | None = None
    stored_width: keras.KerasTensor | None = None


def sampling_grid(
    size,
    input_size,
    kernel_size=(3, 3),
    strides=(1, 1),
    padding=(1, 1),
    dilation_rate=(1, 1),
    start=0,
    stored_size=None,
) -> SamplingGrid:
    """Places the taps of a convolution with output `size` on a map of `input_size`.

    Sizes are pairs of ints or scalar tensors. `padding` is in pixels on both sides. `start` is the
    row number of the map's first pixel if several maps are concatenated. `stored_size` is that of a
    smaller map that is sampled as if enlarged to `input_size`.
    """
    # Known sizes become constants of the graph, unknown sizes a few operations.
    static = all(isinstance(n, int) for n in (*size, *input_size, start, *(stored_size or ())))
    np_or_ops = np if static else ops
    y, x = (
        np_or_ops.arange(n, dtype="float32") * s - p
        for n, s, p in zip(size, strides, padding, strict=True)
    )
    positions = size[0] * size[1]
    taps_y, taps_x = np.meshgrid(
        *(
            np.arange(k, dtype="float32") * d
            for k, d in zip(kernel_size, dilation_rate, strict=True)
        ),
        indexing="ij",
    )
    constant = np_or_ops.ones((positions, 1), dtype="int32")
    return SamplingGrid(
        y=np_or_ops.reshape(np_or_ops.broadcast_to(y[:, None], size), (positions, 1)),
        x=np_or_ops.reshape(np_or_ops.broadcast_to(x, size), (positions, 1)),
        taps_y=taps_y.ravel(),
        taps_x=taps_x.ravel(),
        height=constant * input_size[0],
        width=constant * input_size[1],
        start=constant * start,
        stored_height=stored_size and constant * stored_size[0],
        stored_width=stored_size and constant * stored_size[1],
    )


def concatenate_grids(grids: Sequence[SamplingGrid]) -> SamplingGrid:
    """Concatenates the positions of grids with the same kernel over several maps."""
    per_position = [
        name
        for name, field in grids[0]._asdict().items()
        if field is not None and not name.startswith("taps")
    ]
    static = all(isinstance(field, np.ndarray | None) for grid in grids for field in grid)
    concatenate = np.concatenate if static else ops.concatenate
    fields = {
        name: concatenate([getattr(grid, name) for grid in grids], axis=0) for name in per_position
    }
    return grids[0]._replace(**fields)
