"""Initial weights of the convolutions before the predictions."""

import numpy as np
import pytest

from keras_dyhead.detectors.conv_tower import conv_tower


@pytest.mark.parametrize("width", [32, 128])
def test_kernels_without_normalization_start_small(width):
    for use_group_norm, size in ((False, 0.01), (True, (2 / (9 * width)) ** 0.5)):
        tower = conv_tower("class", 2, width, use_group_norm, "float32")
        kernels = [layer.kernel for layer in tower if hasattr(layer, "kernel")]
        assert len(kernels) == 2
        np.testing.assert_allclose([np.std(kernel) for kernel in kernels], size, rtol=0.05)
