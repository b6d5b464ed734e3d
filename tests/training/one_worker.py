"""Trains a small detector as one process of several; run by `test_strategy.py`.

TF_CONFIG=... python -m training.one_worker RESULT.npz
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from detectors.scenes import CLASSES, SMALL, scene

from keras_dyhead.training.strategy import (
    check_agreement,
    make_strategy,
    synchronize_batch_norm,
)


def backbone():
    """A model from images to C3..C5 whose normalizations use the whole batch."""
    images = x = keras.Input((None, None, 3))
    maps = {}
    for level, strides in [("P3", 8), ("P4", 2), ("P5", 2)]:
        x = keras.layers.Conv2D(16, 5, strides, "same", use_bias=False, name=f"conv_{level}")(x)
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"norm_{level}")(x)
        x = maps[level] = keras.layers.ReLU()(x)
    return keras.Model(images, maps)


def train(strategy, name, num_blocks):
    """Three epochs of two steps, two images each: the second image of the first step is empty.

    Without DyHead it does not predict, and ends sooner.
    """
    images, targets = scene()
    order = [0, 1, 0, 0]
    images = images[order] * np.array([1, 1, 0.5, 2], "float32")[:, None, None, None]
    targets = {key: value[order] for key, value in targets.items()}
    keras.utils.set_random_seed(0)
    small = SMALL[name]
    with strategy.scope():
        model = small.detector(
            backbone(),
            CLASSES,
            **small.parts(num_blocks),
            **small.arguments,
        )
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9, global_clipnorm=1.0, use_ema=True)
        model.compile(optimizer)
    synchronize_batch_norm(model)
    data = tf.data.Dataset.from_tensor_slices((images, targets)).batch(2)
    logs = model.fit(data, epochs=3, verbose=0).history
    found = {}
    if num_blocks:
        found = model.predict(tf.data.Dataset.from_tensors(images), verbose=0)
    return {
        **{f"log {key}": np.array(value) for key, value in logs.items()},
        **{f"weight {weight.path}": weight.numpy() for weight in model.weights},
        **{f"found {key}": value for key, value in found.items()},
    }


def main(result, name, num_blocks):
    strategy = make_strategy("multiworker")
    check_agreement(strategy, ["same", 1])
    try:
        check_agreement(strategy, strategy.cluster_resolver.task_id)
    except ValueError as error:
        print("refused:", error)
    np.savez(result, **train(strategy, name, num_blocks))
    print("chief" if strategy.extended.should_checkpoint else "helper")


if __name__ == "__main__":
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # starts sooner
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
