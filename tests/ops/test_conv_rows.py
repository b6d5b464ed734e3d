"""One product for all maps gives the convolution of each map."""

import numpy as np
from backend import relative_error, vjp
from keras import ops

from keras_dyhead.ops.conv_rows import conv_rows

SIZES = [(4, 5), (2, 3), (1, 1)]


def test_conv_rows_convolves_each_map():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, 27, 4)).astype("float32")
    kernel = rng.normal(size=(3, 3, 4, 6)).astype("float32")
    cotangent = rng.normal(size=(2, 27, 6)).astype("float32")

    def convolutions(rows, kernel):
        outputs, start = [], 0
        for height, width in SIZES:
            part = rows[:, start : start + height * width]
            output = ops.conv(ops.reshape(part, (2, height, width, 4)), kernel, padding="same")
            outputs.append(ops.reshape(output, (2, height * width, 6)))
            start += height * width
        return ops.concatenate(outputs, axis=1)

    output, gradients = vjp(lambda *x: conv_rows(*x, SIZES), [rows, kernel], cotangent)
    expected, expected_gradients = vjp(convolutions, [rows, kernel], cotangent)
    for found, wanted in zip([output, *gradients], [expected, *expected_gradients], strict=True):
        assert relative_error(found, wanted) < 1e-5
