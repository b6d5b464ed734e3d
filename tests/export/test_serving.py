"""The preprocessing of exported graphs against that of TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.detectors import DetectionPreprocessor
from keras_dyhead.export.litert import _IntegerPreprocessor
from keras_dyhead.export.serving import PortablePreprocessor


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(60, 90), (48, 31), (301, 217), (24, 20), (1000, 750)])
def test_matrix_products_resize_as_tensorflow_does(size, antialias):
    config = {"min_side": 48, "max_side": 80, "pad_multiple": 32, "antialias": antialias}
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), "uint8")
    expected = DetectionPreprocessor(**config)(image)
    batch = tf.function(
        PortablePreprocessor(**config), input_signature=[tf.TensorSpec((None, None, None, 3))]
    )(image.astype("float32"))
    for name in expected:
        np.testing.assert_allclose(batch[name], expected[name], atol=1e-5)


def test_whole_numbers_give_the_sizes_of_the_published_rule():
    """`int(side * factor + 0.5)` in float64, but where float64 misses an exact half."""
    portable, published = _IntegerPreprocessor((320, 480)), DetectionPreprocessor((320, 480))
    for height in range(1, 700, 13):
        for width in range(1, 700, 11):
            factor = min(320 / height, 480 / width)
            if all(abs(side * factor % 1 - 0.5) > 1e-9 for side in (height, width)):
                found = [int(n) for n in portable.resized_size(height, width)]
                assert found == list(published.resized_size(height, width)), (height, width)
