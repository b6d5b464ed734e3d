"""Measured throughput is correct."""

import time

import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.coco.throughput import measure_throughput


def test_throughput_matches_a_pipeline_of_known_speed():
    """Batches of two images are 20 ms apart: at most 100 images per second."""

    def batches():
        for number in range(10):
            time.sleep(0.02)
            images = np.zeros((2, 32, 64, 3) if number % 2 else (2, 64, 32, 3), "float32")
            images[:, :16, :32] = 1
            yield images, {"labels": np.array([[0, 1, -1], [3, -1, -1]], "float32")}

    signature = (
        tf.TensorSpec((2, None, None, 3)),
        {"labels": tf.TensorSpec((2, 3))},
    )
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    passed = []
    measured = measure_throughput(dataset, 0.5, passed.append)
    assert measured["images_per_second"] < 105
    rate = measured["images"] / measured["seconds"]
    assert measured["images_per_second"] == pytest.approx(rate, rel=0.02)
    assert measured["seconds"] >= 0.5
    assert measured["cpu_seconds_per_image"] < 0.02
    assert measured["boxes_per_image"] == 1.5
    assert {tuple(canvas["size"]) for canvas in measured["canvases"]} == {(32, 64), (64, 32)}
    assert {canvas["filled"] for canvas in measured["canvases"]} == {0.25}
    assert passed == sorted(passed) and passed[-1] == 1.0
