"""Measures how fast a dataset delivers, and what it contains."""

import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

_STRIDE = 16


def measure_throughput(
    dataset: tf.data.Dataset, seconds: float = 10.0, progress: Callable[[float], None] | None = None
) -> dict[str, Any]:
    """Measures how fast `load_coco` delivers batches if nothing else runs.

    The measurement starts after the first batch and runs over as many epochs as fit into `seconds`,
    at least one batch. `progress` is called after every batch with the elapsed fraction of time.

    Of the result, `cpu_seconds_per_image` is over all threads of this process, and `filled` is the
    fraction of a canvas that is not zero padding at the bottom and right.
    """
    begun = time.perf_counter()
    batches = iter(dataset)
    next(batches)
    start = time.perf_counter()
    cpu = time.process_time()
    images = boxes = 0
    counts, filled = Counter(), Counter()
    while images == 0 or time.perf_counter() - start < seconds:
        for pixels, targets in batches:
            count, *canvas = pixels.shape[:3]
            images += count
            boxes += int(np.sum(targets["labels"].numpy() >= 0))
            counts[tuple(canvas)] += count
            # Samples rows and columns to find the extent of each image.
            lines = (pixels[:, :, ::_STRIDE], tf.transpose(pixels[:, ::_STRIDE], (0, 2, 1, 3)))
            reached = [np.any(line.numpy() != 0, axis=(2, 3)).mean(axis=1) for line in lines]
            filled[tuple(canvas)] += float(np.sum(reached[0] * reached[1]))
            elapsed = time.perf_counter() - start
            if elapsed >= seconds:
                break
            if progress is not None:
                progress(elapsed / seconds)
        else:
            batches = iter(dataset)
    elapsed = time.perf_counter() - start
    if progress is not None:
        progress(1.0)
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
