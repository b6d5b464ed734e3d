"""How time and memory of a training step grow with pixels, images and blocks."""

import dataclasses
import os
import platform
from collections.abc import Callable, Sequence

import numpy as np

from keras_dyhead.benchmark.comparison import run
from keras_dyhead.benchmark.workload import Workload

SCALING_FIGURES = {"step_s": "training step", "forward_s": "forward", "peak_mib": "peak memory"}
SIDES = (256, 512, 768, 1024, 1280)
BATCHES = (1, 2, 4, 8)
BLOCKS = (1, 2, 4, 6, 8)


def measure_scaling(
    workload: Workload,
    backend: str = "tensorflow",
    repeats: int = 3,
    sides: Sequence[int] = SIDES,
    batches: Sequence[int] = BATCHES,
    blocks: Sequence[int] = BLOCKS,
    progress: Callable[[str], None] = lambda _: None,
) -> dict:
    """Measures the tower with one thing changing and the others as in `workload`.

    On TensorFlow by sparse products, as `keras-dyhead train` samples on CPUs.

    Args:
        workload: Starting point.
        backend: Keras backend. Defaults to `"tensorflow"`.
        repeats: Counted calls, of which the median is taken. Defaults to 3.
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
        measured[name] = []
        for x, changes in points:
            progress(f"{x} {name}")
            row = run(
                dataclasses.replace(workload, **changes),
                "keras_tower",
                repeats,
                backend,
                sparse=backend == "tensorflow",
            )
            measured[name].append({"x": x} | changes | row)
    return {
        "workload": dataclasses.asdict(workload),
        "backend": backend,
        "repeats": repeats,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "series": measured,
    }


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
