"""Measures how long training waits for images."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_dyhead.ops.arguments import check

_WARM_UP = 3


def measure_waiting(
    model: keras.Model,
    dataset: tf.data.Dataset,
    steps: int = 20,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Trains some steps and measures how long they compute and how long they wait for images.

    The dataset prefetches in its own threads while a step computes, as in `fit`. On a CPU, the
    threads share the processors with the step and slow it down. The steps, measured after three
    steps of warm-up, change the weights of the compiled model. `progress` is called after each step
    with the fraction of steps done.
    """
    check("steps", steps, steps >= 1, "positive")
    batches = iter(dataset.repeat())
    waited, computed = [], []
    for step in range(_WARM_UP + steps):
        started = time.perf_counter()
        batch = next(batches)
        ready = time.perf_counter()
        model.train_on_batch(*batch)  # waits for the loss, because it returns a number
        waited.append(ready - started)
        computed.append(time.perf_counter() - ready)
        if progress is not None:
            progress((step + 1) / (_WARM_UP + steps))
    step_seconds = statistics.median(computed[_WARM_UP:])
    waiting_seconds = statistics.fmean(waited[_WARM_UP:])
    return {
        "step_seconds": round(step_seconds, 4),
        "waiting_seconds": round(waiting_seconds, 5),
        "waiting_share": round(waiting_seconds / (waiting_seconds + step_seconds), 5),
        "steps": steps,
    }
