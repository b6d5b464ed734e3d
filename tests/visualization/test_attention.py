"""The attention plot: correct maps, one color scale, no padding, no distortion."""

import numpy as np
import pytest

from keras_dyhead.visualization.attention import draw_attention, largest_norm

LEVELS = 3


def rows_of(figure):
    """The axes with maps by row. The first row shows cells, the last column color bars."""
    maps = [axis for axis in figure.axes if len(axis.images) == 2]
    return [maps[i : i + LEVELS] for i in range(0, len(maps), LEVELS)]


@pytest.fixture(scope="module")
def rows(view):
    return rows_of(draw_attention(view))


def test_rows_are_the_steps_of_all_blocks(view, rows):
    assert [row[0].get_ylabel().split("\n")[-1] for row in rows] == [
        "before DyHead",
        *["after spatial-aware", "after scale-aware", "after task-aware"] * 2,
    ]
    steps = [view.before] + [b.norms[s] for b in view.blocks for s in ("spatial", "scale", "task")]
    for row, maps in zip(rows, steps, strict=True):
        for axis, expected in zip(row, maps, strict=True):
            np.testing.assert_allclose(axis.images[1].get_array(), expected, rtol=1e-5)


def test_all_maps_share_one_color_scale_over_the_visible_range(view, rows):
    """The image has 64 x 83 of 64 x 96 pixels: the last of P3's twelve columns is padding."""
    steps = [view.before, *(maps for block in view.blocks for maps in block.norms.values())]
    visible = [[maps[0][:, :11], *maps[1:]] for maps in steps]
    highest = max(float(values.max()) for maps in visible for values in maps)
    assert {axis.images[1].get_clim() for row in rows for axis in row} == {(0, highest)}
    assert largest_norm(view) == highest
    compared = rows_of(draw_attention(view, highest=99.0))
    assert {axis.images[1].get_clim() for row in compared for axis in row} == {(0, 99)}


def test_a_large_norm_on_padding_changes_no_color(view, rows):
    view.before[0][:, 11] += 1000
    try:
        again = [row[0].images[1].get_clim() for row in rows_of(draw_attention(view))]
    finally:
        view.before[0][:, 11] -= 1000
    assert again == [row[0].images[1].get_clim() for row in rows]


def test_cells_are_aligned_with_the_image_and_padding_is_cut_off(rows):
    for row in rows:
        for axis in row:
            assert axis.get_xlim() == (0, 130) and axis.get_ylim() == (100, 0)
            assert axis.get_aspect() == 1
            left, right, bottom, top = axis.images[1].get_extent()
            np.testing.assert_allclose((left, top), (0, 0))
            np.testing.assert_allclose((right, bottom), (96 * 130 / 83, 100), rtol=1e-6)
            assert tuple(axis.images[0].get_extent()) == (0, 130, 100, 0)


def test_only_chosen_blocks_are_drawn(view):
    rows = rows_of(draw_attention(view, blocks=[1]))
    assert [row[0].get_ylabel() for row in rows][1] == "block 2 of 2\nafter spatial-aware"
    assert len(rows) == 4
    for wrong, received in (([2], r"\[2\]"), (1, "1"), (["0"], r"\['0'\]"), ([1.0], r"\[1.0\]")):
        with pytest.raises(ValueError, match=f"blocks={received}"):
            draw_attention(view, blocks=wrong)
