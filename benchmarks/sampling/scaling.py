"""How time and memory of a training step grow with pixels, images and blocks."""

import contextlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np

from benchmarks.measurement import Measurement
from benchmarks.sampling.workload import Workload

CURVES = {"step_s": "training step", "forward_s": "forward", "peak_mib": "peak memory"}
SIZES = {
    "pixels": [{"height": side, "width": side} for side in (256, 512, 768, 1024, 1280)],
    "images": [{"batch": count} for count in (1, 2, 4, 8)],
    "blocks": [{"blocks": count} for count in (1, 2, 4, 6, 8)],
}


def measure_scaling(
    workload: Workload, backend: str, repeats: int, progress: Callable[[str], None]
) -> dict[str, list[dict]]:
    """Measures the tower while one size changes. It has two blocks unless their number changes.

    The speed of the machine may vary, so the sizes are measured in turn, each in its own process.

    Args:
        workload: Starting point.
        backend: Keras backend.
        repeats: Timed calls, of which the median is taken.
        progress: Called with the name of the next measurement.

    Returns:
        For each of `SIZES` a list of the figures, with the size as `"x"`.
    """
    series = {}
    for name, sizes in SIZES.items():
        few = workload if name == "blocks" else replace(workload, blocks=2)
        workloads = [replace(few, **size) for size in sizes]
        with contextlib.ExitStack() as stack:
            measurements = [
                stack.enter_context(
                    Measurement(w, "sampling.implementations.keras_tower", 1, backend)
                )
                for w in workloads
            ]
            rounds = []
            for number in range(1 + repeats):
                progress(f"{name}, round {number} of {repeats}")
                rounds.append([measurement.take() for measurement in measurements])
        series[name] = [
            asdict(w) | {"x": w.height * w.width if name == "pixels" else max(size.values())} | row
            for w, size, row in zip(workloads, sizes, map(_medians, *rounds), strict=True)
        ]
    return series


def _medians(first, *later):
    """Returns the first measurement of a size, with the medians of the later ones."""
    return first | {name: statistics.median(row[name] for row in later) for name in CURVES}


def fit_exponent(rows: Sequence[dict], figure: str) -> float:
    """Fits the power law `a * x**p` to a figure and returns `p`."""
    x, y = ([row[key] for row in rows] for key in ("x", figure))
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def plot_scaling(series: dict[str, list[dict]]):
    """Plots time above memory, with the exponent of each curve in the legend."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained")
    panels = figure.subplots(2, 3, sharex="col")
    for column, (name, rows) in zip(panels.T, series.items(), strict=True):
        x = [row["x"] for row in rows]
        for axes, curves in zip(column, (("step_s", "forward_s"), ("peak_mib",)), strict=True):
            for key in curves:
                label = f"{CURVES[key]}, exponent {fit_exponent(rows, key):.2f}"
                axes.plot(x, [row[key] for row in rows], "o-", label=label)
            axes.set(xlim=(0, None), ylim=(0, None))
            axes.legend()
            axes.grid(alpha=0.3)
        column[-1].set_xlabel(name)
        if name == "pixels":
            column[-1].set_xticks(x, [f"{row['height']}²" for row in rows])
    panels[0, 0].set_ylabel("seconds")
    panels[1, 0].set_ylabel("peak memory, MiB")
    return figure
