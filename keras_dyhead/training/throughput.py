"""Measures how fast a dataset delivers, what it contains, and how long training waits for it."""

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_STRIDE = 16  # of the rows and columns that are sampled to find the extent of an image
_WARM_UP = 3
_PARTS = 100  # of the time, shown as progress


def measure_throughput(
    dataset: tf.data.Dataset,
    seconds: float,
    progress: Callable[[Sequence], Iterator] = iter,
) -> dict[str, Any]:
    """Measures how fast `load_coco` delivers batches if nothing else runs.

    The measurement starts after the first batch and runs over as many epochs as fit into `seconds`,
    at least one batch. Of the result, `cpu_seconds_per_image` is over all threads of this process,
    and `filled` is the fraction of a canvas that is not zero padding at the bottom and right.
    `progress` wraps parts of the time.
    """
    begun = time.perf_counter()
    batches = iter(dataset.repeat())
    next(batches)
    start = time.perf_counter()
    cpu = time.process_time()
    images = boxes = 0
    counts, filled = Counter(), Counter()
    for part in progress(range(1, _PARTS + 1)):
        while not images or time.perf_counter() - start < seconds * part / _PARTS:
            pixels, targets = next(batches)
            count, *canvas = pixels.shape[:3]
            images += count
            boxes += int(np.sum(targets["labels"].numpy() >= 0))
            counts[tuple(canvas)] += count
            lines = (pixels[:, :, ::_STRIDE], tf.transpose(pixels[:, ::_STRIDE], (0, 2, 1, 3)))
            reached = [np.any(line.numpy() != 0, axis=(2, 3)).mean(axis=1) for line in lines]
            filled[tuple(canvas)] += float(np.sum(reached[0] * reached[1]))
    elapsed = time.perf_counter() - start
    return {
        "images_per_second": round(images / elapsed, 2),
        "cpu_seconds_per_image": round((time.process_time() - cpu) / images, 5),
        "first_batch_seconds": round(start - begun, 2),
        "images": images,
        "seconds": round(elapsed, 2),
        "processors": os.cpu_count(),
        "boxes_per_image": round(boxes / images, 3),
        "canvases": [
            {"size": list(size), "images": count, "filled": round(filled[size] / count, 3)}
            for size, count in sorted(counts.items())
        ],
    }


def measure_waiting(
    model: keras.Model,
    dataset: tf.data.Dataset,
    steps: int,
    progress: Callable[[Sequence], Iterator] = iter,
) -> dict[str, Any]:
    """Trains some steps and measures how long they compute and how long they wait for images.

    The dataset prefetches in its own threads while a step computes, as in `fit`. On a CPU, the
    threads share the processors with the step and slow it down. The steps, measured after three
    steps of warm-up, change the weights of the compiled model. `progress` wraps the steps.
    """
    batches = iter(dataset.repeat())
    waited, computed = [], []
    for _ in progress(range(_WARM_UP + steps)):
        started = time.perf_counter()
        batch = next(batches)
        ready = time.perf_counter()
        model.train_on_batch(*batch)  # waits for the loss, because it returns a number
        waited.append(ready - started)
        computed.append(time.perf_counter() - ready)
    step_seconds = statistics.median(computed[_WARM_UP:])
    waiting_seconds = statistics.fmean(waited[_WARM_UP:])
    return {
        "step_seconds": round(step_seconds, 4),
        "waiting_seconds": round(waiting_seconds, 5),
        "waiting_share": round(waiting_seconds / (waiting_seconds + step_seconds), 5),
        "steps": steps,
    }
