"""Distributes the images of a step over devices."""

import json
import os
import zlib

import keras
import tensorflow as tf

_TF_CONFIG = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Creates the strategy of a training run. Call it before any other TensorFlow operation.

    Args:
        name: `"none"` returns the strategy of the current scope, by default that of one device.
            `"mirrored"` splits each batch over all GPUs of this machine, or over its logical CPU
            devices if it has no GPU. `"multiworker"` splits it over the devices of all processes
            in the environment variable `TF_CONFIG`.

    Raises:
        ValueError: If `TF_CONFIG` is missing or does not identify this process.
    """
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if name == "multiworker":
        text = os.environ.get("TF_CONFIG", "")
        try:
            config = json.loads(text)
            config["cluster"][config["task"]["type"]][config["task"]["index"]]
        except (ValueError, LookupError, TypeError):
            raise ValueError(
                "The strategy 'multiworker' needs the environment variable TF_CONFIG, with a "
                f"different index in each process: {_TF_CONFIG}. Received: TF_CONFIG={text!r}"
            ) from None
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def synchronize_batch_norm(model: keras.Model) -> None:
    """Makes batch normalizations compute their statistics over all replicas.

    Frozen ones use stored statistics and do not change.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


def check_agreement(strategy: tf.distribute.Strategy, state: object) -> None:
    """Checks that all processes have the same JSON-serializable state. Each waits for all others.

    Raises:
        ValueError: If the processes differ.
    """
    number = zlib.crc32(json.dumps(state, sort_keys=True).encode())
    numbers = strategy.run(lambda: tf.constant([number], "int64"))
    numbers = strategy.gather(numbers, axis=0).numpy().tolist()
    if len(set(numbers)) > 1:
        raise ValueError(
            "The processes of TF_CONFIG must have the same data, settings and checkpoints. --out "
            f"must be a folder that all of them share. Received in this process: {state}. "
            f"Checksums of all processes: {numbers}"
        )
