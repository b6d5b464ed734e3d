"""Trains every composition under MirroredStrategy on two logical CPU devices; prints JSON.

In a separate process: logical devices must be created before TensorFlow uses the real one.
"""

import json
import math

import keras
import numpy as np
import tensorflow as tf
from integrations import tiny_detectors


def train(name, strategy):
    x, y = tiny_detectors.data(name)
    with strategy.scope():
        model = tiny_detectors.COMPOSITIONS[name]()
        tiny_detectors.compile_model(name, model, jit_compile=False)
    kernels = [w for w in model.trainable_weights if "spatial" in w.path and "kernel" in w.path]
    before = [keras.ops.convert_to_numpy(w) for w in kernels]
    history = model.fit(x, y, batch_size=4, verbose=0).history
    moved = [not np.array_equal(b, w) for b, w in zip(before, kernels, strict=True)]
    evaluation = model.evaluate(x, y, batch_size=4, verbose=0)
    copies = [w.value.values for w in kernels]
    return {
        "replicas": len(copies[0]),
        "loss_is_finite": math.isfinite(history["loss"][0]),
        "evaluation_is_finite": bool(np.isfinite(evaluation).all()),
        "kernels_moved": all(moved),
        "replicas_agree": all(np.array_equal(a, b) for a, b in copies),
        "detections": list(model.predict(x, batch_size=4, verbose=0)["boxes"].shape),
    }


if __name__ == "__main__":
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # starts sooner
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    print(json.dumps({name: train(name, strategy) for name in tiny_detectors.COMPOSITIONS}))
