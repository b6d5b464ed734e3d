"""Which numbers count as ints."""

import numpy as np
import pytest

from keras_dyhead.ops.arguments import are_numbers, pair, warn_ignored, whole_number


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_python_and_numpy_ints_become_python_ints(value):
    found = (whole_number(value, "size"), *pair(value, "size"), *pair((value, 1), "size"))
    assert found == (3, 3, 3, 3, 1) and all(type(n) is int for n in found)


@pytest.mark.parametrize("value", [3.0, np.float32(3), True, np.True_, "3", None, 0, -1, [3]])
def test_everything_else_is_refused_with_its_value(value):
    with pytest.raises(ValueError, match=r"`size` must be an int of at least 1\. Received: size="):
        whole_number(value, "size")
    with pytest.raises(ValueError, match="`size` must be an int .*, or a pair.* Received: size="):
        pair(value, "size")


def test_numbers_come_in_arrays_and_sequences_of_one_shape():
    for value in ((1, 2.5), [1, np.float32(2)], np.ones(2), range(2)):
        assert are_numbers(value, (2,)) and not are_numbers(value, (1, 2))
    assert are_numbers(range(2), (2,), int) and not are_numbers((1, 2.0), (2,), int)
    for wrong in ("ab", ("1", 2), (1, (2, 3)), (1, True), (1, None), {1, 2}, None):
        assert not are_numbers(wrong, (2,))


def test_arguments_that_keras_would_ignore_are_named():
    with pytest.warns(
        UserWarning, match=r"ATSS has no arguments \['num_block'\]: they are ignored"
    ):
        warn_ignored("ATSS", {"num_block": 1, "name": "atss"})
    warn_ignored("ATSS", {"trainable": False})
