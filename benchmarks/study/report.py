"""Results of the study: Markdown tables with intervals, and a plot."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence

from benchmarks.study.plan import TABLES, Comparison, Trial
from benchmarks.tables import Row, markdown

Tables = Mapping[str, Sequence[Comparison]]
Found = Mapping[Trial, Mapping]

_EXPLANATION = (
    "AP and AR are in percent: mean over the seeds ± half of the 95 % interval. Differences are to "
    "the nearest row above without one, seed by seed; bold if the interval excludes zero."
)


def rows_of(table: Sequence[Comparison], found: Found) -> list[Row]:
    """Returns the rows with finished training runs, paired by seed and backbone.

    A row whose baseline has none is left out.
    """
    lines = {}
    for trial, line in found.items():
        anyone = dataclasses.replace(trial, seed=0, backbone="")
        lines.setdefault(anyone, {})[trial.seed, trial.backbone] = line
    rows = []
    for comparison in table:
        finished = lines.get(comparison.trial)
        if not finished or comparison.baseline not in {None, *lines}:
            continue
        diverged = sum(None in line.get("losses", ()) for line in finished.values())
        label = comparison.label + (f" ({diverged} diverged)" if diverged else "")
        baseline = comparison.baseline and _figures(lines.get(comparison.baseline, {}))
        rows.append(Row(label, _figures(finished), baseline))
    return rows


def write_report(tables: Tables, found: Found, plot: str | None = None) -> str:
    """Returns the tables as Markdown.

    Args:
        tables: As `plan_tables` returns them.
        found: As `runner.read` returns it.
        plot: Path of the plot in the text. Defaults to `None`, no plot.

    Raises:
        ValueError: If no training of the tables is finished.
    """
    planned = {row.trial for rows in tables.values() for row in rows}
    lines = {
        trial: line
        for trial, line in found.items()
        if dataclasses.replace(trial, seed=0, backbone="") in planned
    }
    if not lines:
        raise ValueError("No training run of these tables is finished.")
    hours = sum(line.get("seconds", 0) for line in lines.values()) / 3600
    versions = sorted({line.get("made_with", {}).get("tensorflow", "?") for line in lines.values()})
    backbones = sorted({trial.backbone[:8] or "random weights" for trial in lines})
    introduction = (
        f"{len(lines)} training runs, {hours:.0f} hours on one core. "
        f"TensorFlow {', '.join(versions)}; backbone {', '.join(backbones)}. {_EXPLANATION}"
    )
    rows = _with_rows(tables, found)
    missing = sum(map(len, tables.values())) - sum(map(len, rows.values()))
    if missing:
        introduction += f" Planned rows without a run are left out ({missing})."
    parts = [textwrap.fill(introduction, 99)]
    for name, found_rows in rows.items():
        parts += [f"### {TABLES[name]}", markdown(found_rows)]
    if plot:
        parts.append(f"![AP of every configuration with its 95 % interval]({plot})")
    return "\n\n".join(parts) + "\n"


def plot_report(tables: Tables, found: Found):
    """Plots the AP of every row: mean, 95 % interval, and a stroke per seed.

    Returns:
        A matplotlib figure without pyplot.
    """
    from matplotlib.figure import Figure

    panels = [(TABLES[name], rows) for name, rows in _with_rows(tables, found).items()]
    counts = [len(rows) for _, rows in panels]
    figure = Figure(figsize=(8, 1.2 + 0.3 * sum(counts) + 0.4 * len(counts)), layout="constrained")
    ratios = {"height_ratios": counts}
    axes = figure.subplots(len(counts), sharex=True, squeeze=False, gridspec_kw=ratios)[:, 0]
    for axis, (title, rows) in zip(axes, panels, strict=True):
        for place, row in enumerate(rows):
            color = "tab:gray" if row.baseline is None else "tab:blue"
            estimate = row.estimate("AP")
            style = {"fmt": "o", "color": color, "capsize": 3}
            axis.errorbar(estimate.mean, place, xerr=estimate.half_width, **style)
            values = [100 * figures["AP"] for figures in row.figures.values()]
            axis.plot(values, [place] * len(values), "|", color=color, alpha=0.6, markersize=10)
        axis.set_yticks(range(len(rows)), [row.label for row in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_title(title, loc="left", fontsize="medium")
        axis.grid(axis="x", alpha=0.3)
    axes[-1].set_xlabel("AP: mean, 95 % interval, seeds (strokes); gray: baseline")
    return figure


def _with_rows(tables, found):
    """Returns the rows of every table with at least one comparison."""
    rows = {name: rows_of(table, found) for name, table in tables.items()}
    return {name: r for name, r in rows.items() if any(row.difference("AP") for row in r)}


def _figures(lines):
    return {pair: line["figures"] for pair, line in lines.items()}
