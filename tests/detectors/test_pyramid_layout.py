"""Level sizes from the canvas size and the number of cells."""

import pytest

from keras_dyhead.detectors.pyramid_layout import sizes_for, sizes_that_fit


def test_level_sizes_round_up_and_follow_from_the_number_of_cells():
    sizes = sizes_for((200, 264), range(3, 8))
    assert sizes == [(25, 33), (13, 17), (7, 9), (4, 5), (2, 3)]
    cells = sum(h * w for h, w in sizes)
    assert sizes_that_fit(cells, [(100, 100), (200, 264)], range(3, 8)) == sizes
    with pytest.raises(ValueError, match="none of the image sizes"):
        sizes_that_fit(cells, [(100, 100)], range(3, 8))
