"""Opens a COCO dataset, iterates over one epoch and prints its memory in MiB as JSON.

It runs in a separate process because the memory of a test process would blur the figures.
"""

import json
import pathlib
import resource
import sys
import time

import tensorflow as tf

from keras_dyhead.coco import Augmentation, load_coco


def resident():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    folder, annotations = sys.argv[1:]
    tf.constant(0)
    result = {"before": resident()}
    begun = time.perf_counter()
    dataset = load_coco(
        *(folder, annotations, 16, ((24, 32), (32, 24))),
        training=True,
        seed=0,
        verify=False,
        augmentation=Augmentation(scale=(0.5, 2.0), crop=0.5, crop_size=(8, 20), crop_sides=None),
    )
    result["seconds_to_open"] = time.perf_counter() - begun
    result["opened"] = resident()
    result["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    result["images"], result["streaming"] = 0, []
    begun = time.perf_counter()
    for step, (images, _) in enumerate(dataset):
        result["images"] += len(images)
        if step % 500 == 100:
            result["streaming"].append(resident())
    result["seconds_of_epoch"] = time.perf_counter() - begun
    print(json.dumps(result))
