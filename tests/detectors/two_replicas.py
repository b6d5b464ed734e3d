"""Compares training on two replicas with training on one device.

`python two_replicas.py MODEL ...` in a process of its own: logical devices must exist before
TensorFlow uses the real one. A model is the name of a detector, its number of blocks and, for
predictions also to be compared, a third word.
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from detectors.scenes import SMALL, scene, small_detector

from keras_dyhead.detectors.replicas import sum_gradients_first

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # starts sooner
ONE = tf.distribute.get_strategy()
TWO = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def compare_detectors(name, num_blocks, *predicts):
    """One replica gets the images with objects, the other gets the empty one.

    The last batch to predict has no image for the second replica.
    """
    images, targets = (keras.tree.map_structure(lambda x: x[[0, 0, 1]], part) for part in scene())
    results = []
    for strategy in (ONE, TWO):
        with strategy.scope():
            model = small_detector(name, int(num_blocks), **SMALL[name].on_replicas)
            model.compile(keras.optimizers.SGD(0.1), run_eagerly=strategy is ONE)
        logs = model.fit(images, targets, batch_size=3, shuffle=False, verbose=0).history
        out = model.predict(images, batch_size=2, verbose=0) if predicts else {}
        results.append((logs, [(w.path, w.numpy()) for w in model.weights], out))
    (logs, weights, out), (other_logs, other_weights, other_out) = results
    for key in logs:
        np.testing.assert_allclose(other_logs[key], logs[key], rtol=1e-5, err_msg=key)
    for (path, a), (_, b) in zip(weights, other_weights, strict=True):
        np.testing.assert_allclose(b, a, atol=2e-6, err_msg=path)
    for key in out:
        np.testing.assert_allclose(other_out[key], out[key], atol=1e-3, err_msg=key)
    print(name, "equal on", TWO.num_replicas_in_sync, "replicas")


# The rows of one replica have a large gradient, the others a small one.
ROWS = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
WANTED = np.array([[0.1], [0.1], [30], [20]] * 2, "float32")


def train(strategy, options, scale):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9, **options)
        if scale:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, scale, 2)
        model.compile(optimizer, "mse")
        sum_gradients_first(model.optimizer)
    model.fit(ROWS, WANTED, 4, epochs=5, shuffle=False, verbose=0)
    return [v.numpy() for v in [*model.weights, *model.optimizer.variables]]


def compare_optimizers():
    for options, scale in (
        ({"global_clipnorm": 1.0}, None),
        ({"clipvalue": 0.5}, None),
        ({"global_clipnorm": 1.0}, 2.0**126),
    ):
        one = train(ONE, options, scale)
        for a, b in zip(one, train(TWO, options, scale), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        skipped = 0 if scale is None else 10 - int(one[2 + 2])
        print("optimizers equal, having skipped", skipped)


def refuse_xla():
    with TWO.scope():
        try:
            small_detector("atss", 0).compile(jit_compile=True)
        except ValueError as error:
            print(error)


if __name__ == "__main__":
    refuse_xla()
    compare_optimizers()
    for argument in sys.argv[1:]:
        compare_detectors(*argument.split())
