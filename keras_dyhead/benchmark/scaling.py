"""How time and memory of a training step grow with pixels, images and blocks."""

import contextlib
import dataclasses
import os
import platform
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from keras_dyhead.benchmark.measurement import Measurement
from keras_dyhead.benchmark.workload import Workload

SCALING_FIGURES = {"step_s": "training step", "forward_s": "forward", "peak_mib": "peak memory"}
SIDES = (256, 512, 768, 1024, 1280)
BATCHES = (1, 2, 4, 8)
BLOCKS = (1, 2, 4, 6, 8)


def measure_scaling(
    workload: Workload,
    backend: str = "tensorflow",
    repeats: int = 5,
    sides: Sequence[int] = SIDES,
    batches: Sequence[int] = BATCHES,
    blocks: Sequence[int] = BLOCKS,
    progress: Callable[[str], None] = lambda _: None,
) -> dict:
    """Measures the tower with one thing changing and the others as in `workload`.

    On TensorFlow by sparse products, as `keras-dyhead train` samples on CPUs. The machine may be
    quicker at one time than at another: calls that are to be compared are made in turn, each in the
    process of its own size.

    Args:
        workload: Starting point.
        backend: Keras backend. Defaults to `"tensorflow"`.
        repeats: Counted calls, of which the median is taken. Defaults to 5.
        sides: Sides of square images. Defaults to 256 to 1280.
        batches: Numbers of images. Defaults to 1 to 8.
        blocks: Numbers of blocks. Defaults to 1 to 8.
        progress: Called with what is measured next.

    Returns:
        Dict of the settings and, under `"series"`, for each of `"pixels"`, `"images"` and
        `"blocks"` a list of the figures with the value of `"x"`.
    """
    series = {
        "pixels": [
            (side * side, {"height": side, "width": side, "blocks": min(2, workload.blocks)})
            for side in sides
        ],
        "images": [(n, {"batch": n, "blocks": min(2, workload.blocks)}) for n in batches],
        "blocks": [(n, {"blocks": n}) for n in blocks],
    }
    measured = {}
    for name, points in series.items():
        with contextlib.ExitStack() as stack:
            measurements = [
                stack.enter_context(
                    Measurement(
                        dataclasses.replace(workload, **changes),
                        "keras_tower",
                        repeats=1,
                        backend=backend,
                        sparse=backend == "tensorflow",
                    )
                )
                for _, changes in points
            ]
            rows = _in_turn(measurements, repeats, lambda done, name=name: progress(name + done))
        measured[name] = [
            {"x": x} | changes | row for (x, changes), row in zip(points, rows, strict=True)
        ]
    return {
        "workload": dataclasses.asdict(workload),
        "backend": backend,
        "repeats": repeats,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "series": measured,
    }


def _in_turn(measurements, repeats, progress):
    """Takes every measurement once before the next round; medians of the rounds after the first."""
    rounds = []
    for number in range(1 + repeats):
        progress(f", round {number} of {repeats}" if number else ", first calls")
        rounds.append([measurement.take() for measurement in measurements])
    first, *later = rounds
    return [
        row | {figure: statistics.median(r[figure] for r in repeated) for figure in SCALING_FIGURES}
        for row, repeated in zip(first, zip(*later, strict=True), strict=True)
    ]


def fit_exponent(rows: Sequence[dict], figure: str) -> float:
    """Returns the exponent `p` of the power law `a * x**p` that fits a figure best.

    Args:
        rows: One of the `"series"` of `measure_scaling`, at least two of its rows.
        figure: One of `SCALING_FIGURES`.
    """
    x, y = ([row[key] for row in rows] for key in ("x", figure))
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def plot_scaling(report: dict):
    """Draws a report of `measure_scaling`, with the exponent of each curve in the legend.

    Returns:
        A matplotlib figure: a column for every thing that grows; time above, memory below.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained")
    panels = figure.subplots(2, 3, sharex="col")
    for column, (name, rows) in zip(panels.T, report["series"].items(), strict=True):
        x = [row["x"] for row in rows]
        for axes, curves in zip(column, (("step_s", "forward_s"), ("peak_mib",)), strict=True):
            for key in curves:
                label = f"{SCALING_FIGURES[key]}, exponent {fit_exponent(rows, key):.2f}"
                axes.plot(x, [row[key] for row in rows], "o-", label=label)
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
            axes.legend()
            axes.grid(alpha=0.3)
        column[-1].set_xlabel(name)
        if name == "pixels":
            labels = [f"{row['height']}²" for row in rows]
            column[-1].set_xticks(x, labels)
    panels[0, 0].set_ylabel("seconds")
    panels[1, 0].set_ylabel("peak memory, MiB")
    return figure
