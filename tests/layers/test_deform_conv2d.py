"""DeformConv2D raises the errors of the operation, in its constructor and in symbolic calls."""

import keras
import pytest

from keras_dyhead.layers import DeformConv2D
from keras_dyhead.layers.modulated_deform_conv2d import ModulatedDeformConv2D


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": 0}, "filters=0"),
        ({"filters": 8, "strides": 0}, "strides=0"),
        ({"filters": 8, "dilation_rate": -1}, "dilation_rate=-1"),
        ({"filters": 8, "groups": 0}, "groups=0"),
        ({"filters": 8, "offset_groups": 0}, "offset_groups=0"),
        ({"filters": 8, "kernel_size": 0}, "kernel_size=0"),
        ({"filters": 8, "groups": 3}, "groups=3"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DeformConv2D(**arguments)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 8, 20), r"offsets.shape=\(None, 8, 8, 20\)"),
        ((4, 8, 18), r"size of the output, \(8, 8\)"),
    ],
)
def test_a_symbolic_call_raises_the_errors_of_an_eager_one(shape, message, first):
    layer, x = DeformConv2D(8), keras.Input((8, 8, 4))
    if not first:
        layer(x, keras.Input((8, 8, 18)))
    with pytest.raises(ValueError, match=message):
        layer(x, keras.Input(shape))


def test_a_symbolic_mask_is_checked():
    x, offsets = keras.Input((8, 8, 4)), keras.Input((8, 8, 18))
    assert DeformConv2D(8)(x, offsets, keras.Input((8, 8, 9))).shape == (None, 8, 8, 8)
    with pytest.raises(ValueError, match=r"mask.shape=\(None, 8, 8, 8\)"):
        DeformConv2D(8)(x, offsets, mask=keras.Input((8, 8, 8)))
    assert ModulatedDeformConv2D(8)(x).shape == (None, 8, 8, 8)
