"""How time and memory of a training step grow with pixels, images and blocks."""

import contextlib
import dataclasses
import os
import platform
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.sampling.measurement import Measurement
from benchmarks.sampling.workload import Workload

CURVES = {"step_s": "training step", "forward_s": "forward", "peak_mib": "peak memory"}
_SIDES = (256, 512, 768, 1024, 1280)
_BATCHES = (1, 2, 4, 8)
_BLOCKS = (1, 2, 4, 6, 8)


def measure_scaling(
    workload: Workload,
    backend: str = "tensorflow",
    repeats: int = 5,
    progress: Callable[[str], None] = lambda _: None,
) -> dict:
    """Measures the tower with one thing changing and the others as in `workload`.

    On TensorFlow by sparse products. The machine may be quicker at one time than at another: calls
    that are to be compared are made in turn, each in the process of its own size.

    Args:
        workload: Starting point; where pixels and images grow, two blocks at most.
        backend: Keras backend. Defaults to `"tensorflow"`.
        repeats: Counted calls, of which the median is taken. Defaults to 5.
        progress: Called with what is measured next.

    Returns:
        Dict of the settings and, under `"series"`, for each of `"pixels"`, `"images"` and
        `"blocks"` a list of the figures with the value of `"x"`.
    """
    few = min(2, workload.blocks)
    series = {
        "pixels": [(s * s, {"height": s, "width": s, "blocks": few}) for s in _SIDES],
        "images": [(count, {"batch": count, "blocks": few}) for count in _BATCHES],
        "blocks": [(count, {"blocks": count}) for count in _BLOCKS],
    }
    measured = {}
    for name, points in series.items():
        with contextlib.ExitStack() as stack:
            measurements = [
                stack.enter_context(
                    Measurement(
                        dataclasses.replace(workload, **changes),
                        "implementations.keras_tower",
                        repeats=1,
                        backend=backend,
                        sparse=backend == "tensorflow",
                    )
                )
                for _, changes in points
            ]
            rounds = []
            for number in range(1 + repeats):
                progress(f"{name}, round {number} of {repeats}")
                rounds.append([measurement.take() for measurement in measurements])
        measured[name] = [
            {"x": x} | changes | row
            for (x, changes), row in zip(
                points, map(_medians, zip(*rounds, strict=True)), strict=True
            )
        ]
    return {
        "workload": dataclasses.asdict(workload),
        "backend": backend,
        "repeats": repeats,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "series": measured,
    }


def _medians(rounds):
    """The first measurement of a size, with the medians of the later ones."""
    first, *later = rounds
    return first | {name: statistics.median(row[name] for row in later) for name in CURVES}


def fit_exponent(rows: Sequence[dict], figure: str) -> float:
    """Returns the exponent `p` of the power law `a * x**p` that fits a figure best.

    Args:
        rows: One of the `"series"` of `measure_scaling`.
        figure: One of `CURVES`.
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
                label = f"{CURVES[key]}, exponent {fit_exponent(rows, key):.2f}"
                axes.plot(x, [row[key] for row in rows], "o-", label=label)
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
            axes.legend()
            axes.grid(alpha=0.3)
        column[-1].set_xlabel(name)
        if name == "pixels":
            column[-1].set_xticks(x, [f"{row['height']}²" for row in rows])
    panels[0, 0].set_ylabel("seconds")
    panels[1, 0].set_ylabel("peak memory, MiB")
    return figure
