"""Under a strategy, optimizers use the gradient of the whole batch."""

import subprocess
import sys

import keras
import numpy as np

from keras_dyhead.detectors.replicas import sum_gradients_first

# The rows of one replica have a large gradient, the others a small one.
SCRIPT = """
import keras
import numpy as np
import tensorflow as tf
from keras_dyhead.detectors.replicas import sum_gradients_first

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
y = np.array([[0.1], [0.1], [30], [20]] * 2, "float32")

def train(strategy, options, scale):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9, **options)
        if scale:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, scale, 2)
        model.compile(optimizer, "mse")
        sum_gradients_first(model.optimizer)
    model.fit(x, y, 4, epochs=5, shuffle=False, verbose=0)
    return [v.numpy() for v in [*model.weights, *model.optimizer.variables]]

for options, scale in (
    ({"global_clipnorm": 1.0}, None),
    ({"clipvalue": 0.5}, None),
    ({"global_clipnorm": 1.0}, 2.0**126),
):
    one = train(tf.distribute.get_strategy(), options, scale)
    for a, b in zip(one, train(two, options, scale), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    skipped = 0 if scale is None else 10 - int(one[2 + 2])
    print("equal, having skipped", skipped)
"""


def test_clipping_and_loss_scaling_on_two_replicas_equal_those_of_the_whole_batch():
    process = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert process.stdout.count("equal") == 3, process.stderr[-3000:]
    assert process.stdout.count("skipped 0") == 2, process.stdout


def test_an_optimizer_is_changed_once_and_does_the_same_on_one_device():
    weights = []
    for times in (0, 2):
        variable = keras.Variable(np.array([1.0, 2.0]))
        optimizer = keras.optimizers.SGD(0.1, global_clipnorm=1.0)
        for _ in range(times):
            sum_gradients_first(optimizer)
        optimizer.apply([np.array([3.0, 4.0], "float32")], [variable])
        weights.append(variable.numpy())
    np.testing.assert_array_equal(*weights)
    np.testing.assert_allclose(weights[0], [1 - 0.06, 2 - 0.08], rtol=1e-6)
