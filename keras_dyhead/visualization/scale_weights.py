"""The weights of levels over many images."""

from collections.abc import Iterable

import keras
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from keras_dyhead.printable import counted
from keras_dyhead.visualization.view import Preprocessor, look_inside

BRANCHES = {
    "low": ("finer", "tab:blue"),
    "mid": ("same", "tab:gray"),
    "high": ("coarser", "tab:orange"),
}


def plot_scale_weights(
    model: keras.Model, images: Iterable[np.ndarray], preprocessor: Preprocessor | None = None
) -> Figure:
    """Draws the distribution of the weights that scale-aware attention gives to the levels.

    Each row is a block. The left panel shows the weights that each level gives to the finer level,
    itself and the coarser level: a dot per image, a bar at the median. The right panel shows the
    weight of the finer over that of the coarser level, for levels that have both. Below 1, the
    coarser level counts more.

    Args:
        model: As in `plot_attention`.
        images: RGB images `(H, W, 3)`, values 0..255, of any sizes; at least one.
        preprocessor: As in `plot_attention`.

    Returns:
        A matplotlib figure outside pyplot, which needs no display and no `close`.

    Raises:
        ValueError: As in `plot_attention`, or if there is no image.

    Example:
    ```python
    model = ATSS(backbone, num_classes=5)  # or one loaded from a .keras file
    figure = plot_scale_weights(model, map(read_rgb, sorted(Path("photos").glob("*.jpg"))))
    figure.savefig("scale_weights.png")
    ```

    Source: the paper's figure of the learned scale ratios, finer over coarser.
    """
    views = (look_inside(model, image, preprocessor) for image in images)
    collected = [(view.levels, [block.weights for block in view.blocks]) for view in views]
    if not collected:
        raise ValueError("`images` must hold at least one image. Received: none")
    return draw_scale_weights(collected[0][0], [weights for _, weights in collected])


def draw_scale_weights(levels: list[str], records: list[list[list[dict[str, float]]]]) -> Figure:
    """Draws `plot_scale_weights` from weights by image, block, level and branch."""
    weights = [
        [
            {name: np.array([record[block][level][name] for record in records]) for name in names}
            for level, names in enumerate(branches)
        ]
        for block, branches in enumerate(records[0])
    ]
    ratios = [
        {
            level: branches["low"] / branches["high"]
            for level, branches in zip(levels, block, strict=True)
            if len(branches) == 3
        }
        for block in weights
    ]
    everything = [value for block in ratios for values in block.values() for value in values]
    reach = max([0.01, *(1.05 * abs(value - 1) for value in everything)])
    bins = np.linspace(1 - reach, 1 + reach, 41)  # centered at 1, no difference

    figure = Figure(figsize=(9, 2 * len(weights) + 1.1), layout="constrained")
    axes = figure.subplots(len(weights), 2, squeeze=False, sharex="col", sharey="col")
    for number, (left, right) in enumerate(axes):
        _draw_weights(left, weights[number])
        _draw_ratios(right, ratios[number], bins)
        left.set_ylabel(f"block {number + 1} of {len(weights)}" if len(weights) > 1 else "weight")
    axes[0, 0].set_title("weight of each branch (bar: median)", fontsize=9)
    axes[0, 1].set_title("weight of the finer / of the coarser level", fontsize=9)
    axes[-1, 0].set_xticks(range(len(levels)), levels)
    axes[-1, 0].margins(y=0.1)
    axes[-1, 1].set_xlabel("← coarser counts more | finer counts more →", fontsize=8)
    figure.suptitle(f"Scale-aware attention on {counted(len(records), 'image')}", fontsize=11)
    handles = [Patch(color=color, label=f"{meaning} level") for meaning, color in BRANCHES.values()]
    figure.legend(handles=handles, loc="outside lower left", ncols=3, fontsize=8)
    return figure


def _draw_weights(axis, weights) -> None:
    """Draws dots and medians, grouped by level: finer, same, coarser."""
    for level, branches in enumerate(weights):
        for place, (name, (_, color)) in enumerate(BRANCHES.items()):
            if name not in branches:
                continue
            values, x = branches[name], level + 0.27 * (place - 1)
            spread = (np.arange(len(values)) * 0.618) % 1 - 0.5  # evenly, without order
            axis.scatter(x + 0.18 * spread, values, s=9, color=color, alpha=0.5, linewidths=0)
            axis.hlines(np.median(values), x - 0.11, x + 0.11, colors=color, lw=2)
    axis.grid(axis="y", alpha=0.3)


def _draw_ratios(axis, ratios, bins) -> None:
    """Draws one histogram per level, the finest on top."""
    if not ratios:
        axis.text(0.5, 0.5, "no level has both neighbors", ha="center", transform=axis.transAxes)
        axis.set_axis_off()
        return
    upwards = list(reversed(ratios.items()))
    for place, (_, values) in enumerate(upwards):
        counts, _ = np.histogram(values, bins)
        heights = 0.85 * counts / counts.max() + place
        axis.stairs(heights, bins, baseline=place, fill=True, color="tab:purple")
        axis.axhline(place, color="black", lw=0.5)
        text = f"median\n{np.median(values):.2f}"
        axis.annotate(
            text, (bins[-1], place + 0.5), (4, 0), textcoords="offset points", va="center"
        )
    axis.axvline(1, color="black", lw=0.8, ls=":")
    axis.set_yticks(np.arange(len(ratios)) + 0.5, [level for level, _ in upwards])
    axis.tick_params(axis="y", length=0)
    axis.set(xlim=(bins[0], bins[-1]), ylim=(0, len(ratios)))
