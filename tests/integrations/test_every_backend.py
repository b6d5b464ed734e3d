"""KerasHub's and KerasCV's detectors with DyHead fit and detect on every backend."""

import keras
import numpy as np
import pytest
from integrations import tiny_detectors

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", tiny_detectors.COMPOSITIONS)
def test_it_fits_and_detects(name):
    detector = tiny_detectors.COMPOSITIONS[name]()
    tiny_detectors.compile_model(name, detector)
    images, targets = tiny_detectors.data(name, 2)
    fit = detector.fit(images, targets, epochs=3, batch_size=2, shuffle=False, verbose=0)
    assert fit.history["loss"][-1] < fit.history["loss"][0]
    if name.startswith("keras_cv") and keras.backend.backend() == "torch":
        # There, its non-maximum suppression is torchvision's.
        with pytest.raises(ModuleNotFoundError, match="torchvision"):
            detector.predict(images, verbose=0)
        return
    assert detector.predict(images, verbose=0)["boxes"].shape[::2] == (2, 4)


def test_keras_hubs_classes_start_rare():
    detector = tiny_detectors.keras_hub_retinanet()
    bias = keras.ops.convert_to_numpy(detector.classification_head.prediction_layer.bias)
    np.testing.assert_allclose(bias, np.full(bias.shape, -np.log(99)), rtol=1e-6)
