"""The devices that share the images of a step."""

import json
import os
import zlib

import keras
import tensorflow as tf


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Creates the strategy of a training, before anything else is done with TensorFlow.

    Args:
        name: `"none"` takes the strategy whose scope is entered, by default that of one device.
            `"mirrored"` spreads each batch over all GPUs of this machine, or, where there are
            none, over its logical CPU devices. `"multiworker"` spreads it over those of all
            processes that the environment variable `TF_CONFIG` names.

    Raises:
        ValueError: If `TF_CONFIG` is missing or does not say who this process is.
    """
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if name == "multiworker":
        _check_cluster(os.environ.get("TF_CONFIG", ""))
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def synchronize_batch_norm(model: keras.Model) -> None:
    """Has batch normalizations take their statistics from all replicas.

    Frozen ones have statistics of their own and stay as they are.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


def check_agreement(strategy: tf.distribute.Strategy, state: object) -> None:
    """Checks that all processes begin with the same state, which JSON knows; each waits for all.

    Raises:
        ValueError: If the processes differ.
    """
    number = zlib.crc32(json.dumps(state, sort_keys=True).encode())
    numbers = strategy.run(lambda: tf.constant([number], "int64"))
    numbers = strategy.gather(numbers, axis=0).numpy().tolist()
    if len(set(numbers)) > 1:
        raise ValueError(
            "The processes of TF_CONFIG must have the same data and settings, and see the same "
            f"checkpoints: --out must be a folder that all of them share. Received here: {state}; "
            f"checksums of all: {numbers}"
        )


def _check_cluster(text: str) -> None:
    expected = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
    try:
        config = json.loads(text)
        config["cluster"][config["task"]["type"]][config["task"]["index"]]
    except (ValueError, LookupError, TypeError):
        raise ValueError(
            "The strategy 'multiworker' needs the environment variable TF_CONFIG, in every process "
            f"with an index of its own: {expected}. Received: TF_CONFIG={text!r}"
        ) from None
