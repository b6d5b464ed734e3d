"""Distributes a COCO dataset over two logical CPU devices, trains on it and prints JSON.

It runs in a separate process: logical devices must exist before TensorFlow uses the real one.
"""

import json
import sys

import keras
import tensorflow as tf

from keras_dyhead.coco import load_coco

CANVASES = {"one canvas": (16, 24), "two canvases": ((16, 24), (24, 16))}


def deliver(strategy, dataset):
    """The image ids and canvases that each device gets at each step."""
    steps = []
    for images, targets in strategy.experimental_distribute_dataset(dataset):
        parts = zip(
            strategy.experimental_local_results(targets["image_id"]),
            strategy.experimental_local_results(images),
            strict=True,
        )
        steps.append([[ids.numpy().tolist(), list(images.shape[1:3])] for ids, images in parts])
    return steps


def epochs_of_fit(dataset):
    """The order of images in two epochs of `fit`, with epochs kept in step."""
    model = keras.Sequential([keras.Input((16, 24, 3)), keras.layers.GlobalAveragePooling2D()])
    model.add(keras.layers.Dense(1))
    model.compile("sgd", "mse")
    begun = []

    def begin(epoch, logs):
        dataset.epochs.set(epoch)
        begun.append(int(dataset.epochs.get()))

    advanced = []
    callbacks = [
        keras.callbacks.LambdaCallback(
            on_epoch_begin=begin,
            on_epoch_end=lambda epoch, logs: advanced.append(int(dataset.epochs.get())),
        )
    ]
    plain = dataset.map(lambda x, y: (x / 255, y["labels"][:, :1]))
    model.fit(plain, epochs=2, callbacks=callbacks, verbose=0)
    return {"begun": begun, "advanced": advanced}


if __name__ == "__main__":
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    folder, annotations = sys.argv[1:]
    result = {}
    with strategy.scope():  # as in scripts for `tf.distribute`
        for name, canvases in CANVASES.items():
            dataset = load_coco(folder, annotations, 4, canvases, shuffle=True, seed=0)
            result[name] = [deliver(strategy, dataset) for _ in range(2)]
        dataset = load_coco(folder, annotations, 4, (16, 24), training=True, seed=0)
        result["fit"] = epochs_of_fit(dataset)
    print(json.dumps(result))
