"""KerasHub's RetinaNet with DyHead fits and detects on every backend."""

import keras
import numpy as np
import pytest
from integrations.tiny_detectors import NUM_CLASSES, SIZE, keras_hub_retinanet


@pytest.mark.slow
def test_it_fits_and_detects():
    detector = keras_hub_retinanet()
    bias = keras.ops.convert_to_numpy(detector.classification_head.prediction_layer.bias)
    np.testing.assert_allclose(bias, np.full(bias.shape, -np.log(99)), rtol=1e-6)
    images = np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 3)).astype("float32")
    boxes = np.array([[[8, 8, 40, 44]], [[20, 24, 44, 60]]], "float32")
    targets = {"boxes": boxes, "labels": np.array([[1], [NUM_CLASSES - 1]])}
    detector.compile(keras.optimizers.SGD(1e-3))
    losses = detector.fit(images, targets, epochs=3, batch_size=2, shuffle=False, verbose=0)
    assert losses.history["loss"][-1] < losses.history["loss"][0]
    assert detector.predict(images, verbose=0)["boxes"].shape[::2] == (2, 4)
