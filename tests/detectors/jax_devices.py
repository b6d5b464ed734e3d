"""Steps on two devices and on one on JAX: prints the losses, and how much the weights differ.

Counts how often a step is traced, for each size of images and under `mixed_bfloat16`.
"""

import json

import keras
import numpy as np
from detectors.test_every_backend import IMAGES, TARGETS, build


def trained(model, images=IMAGES, epochs=1):
    """Returns the loss of each epoch, and how often a step was traced."""
    traces, compute_losses = [], model.compute_losses

    def counted(*arguments, **options):
        traces.append(1)
        return compute_losses(*arguments, **options)

    model.compute_losses = counted
    fit = model.fit(images, TARGETS, batch_size=2, epochs=epochs, shuffle=False, verbose=0)
    model.compute_losses = compute_losses
    return fit.history["loss"], len(traces)


def compiled(**options):
    model = build("atss", 2, **options)
    model.compile(keras.optimizers.SGD(1e-2))
    return model


if __name__ == "__main__":
    assert len(keras.distribution.list_devices()) == 2
    one = compiled()
    found = {"one": trained(one, epochs=1)}
    half = compiled(image_shape=(None, None, 3), dtype="mixed_bfloat16")
    found["half"] = trained(half, epochs=3)
    found["half, larger"] = trained(half, np.pad(IMAGES, [(0, 0), (0, 0), (0, 32), (0, 0)]), 2)
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    two = compiled()
    found["two"] = trained(two)
    for key, other in (("weights", two), ("moved", build("atss", 2))):
        pairs = zip(one.get_weights(), other.get_weights(), strict=True)
        found[key] = max(float(np.abs(a - b).max()) for a, b in pairs)
    found["devices"] = len(two.trainable_variables[0].value.sharding.device_set)
    print(json.dumps(found))
