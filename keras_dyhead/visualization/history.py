"""Training curves."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure


def plot_history(history: Mapping[str, Sequence[float | None]]) -> Figure:
    """Draws the losses and the COCO metrics of a training over its epochs.

    Args:
        history: The values of every epoch by name, as in `model.fit(...).history`, `None` if a
            value was not computed. Names with `loss` go into the left panel, `AP`, `AP50`, `AP75`
            and `AR100` (with any prefix) into the right one.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, figures = figure.subplots(1, 2)
    for name, values in history.items():
        if "loss" in name:
            _draw(losses, name, values)
        elif name.split("_")[-1] in ("AP", "AP50", "AP75", "AR100"):
            _draw(figures, name, values)
    losses.set(title="loss", xlabel="epoch", ylim=(0, None))
    figures.set(title="COCO metrics", xlabel="epoch", ylim=(0, 1))
    for axis in (losses, figures):
        axis.grid(alpha=0.3)
        axis.locator_params(axis="x", integer=True, min_n_ticks=1)
        if axis.lines:
            axis.legend()
    return figure


def _draw(axis, name, values) -> None:
    values = np.array(values, "float64")  # None becomes NaN
    known = np.isfinite(values)
    few = known.sum() <= 50
    axis.plot(np.flatnonzero(known) + 1, values[known], label=name, marker="." if few else None)
