"""Tables of training runs: means, intervals, and differences from a baseline."""

import dataclasses
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from benchmarks.intervals import Estimate, paired_difference, t_interval

Figures = Mapping[Hashable, Mapping[str, float]]
"""COCO metrics by the key that pairs a training run with its baseline, such as the seed."""

COLUMNS = {
    "AP": "AP",
    "AR100": "AR",
    "AP50": "AP50",
    "AP75": "AP75",
    "APs": "small",
    "APm": "medium",
}
_COMPARED = ("AP", "AR100")


@dataclasses.dataclass(frozen=True)
class Row:
    """The training runs of a configuration and of its baseline.

    Args:
        label: Title of the row.
        figures: COCO metrics of its training runs, from 0 to 1. Empty if none is finished.
        baseline: Figures of the baseline, or `None`.
    """

    label: str
    figures: Figures
    baseline: Figures | None = None

    def estimate(self, name: str) -> Estimate | None:
        """Returns the mean of a figure in percent, or `None` if COCO does not define it."""
        values = list(_percent(self.figures, name).values())
        return t_interval(values) if values and min(values) >= 0 else None

    def difference(self, name: str) -> Estimate | None:
        """Returns the difference of a figure from the baseline, or `None` without a baseline."""
        if self.baseline is None:
            return None
        return paired_difference(_percent(self.figures, name), _percent(self.baseline, name))


def markdown(rows: Sequence[Row], columns: Mapping[str, str] = COLUMNS) -> str:
    """Returns rows as a Markdown table; differences are bold if their interval excludes zero.

    Args:
        rows: The rows.
        columns: Column titles by name of the figure. AP and AR are compared with the baseline.

    Example:

    >>> without, dyhead = {0: {"AP": 0.40}, 1: {"AP": 0.41}}, {0: {"AP": 0.45}, 1: {"AP": 0.46}}
    >>> rows = [Row("without", without), Row("2 blocks", dyhead, baseline=without)]
    >>> print(markdown(rows, {"AP": "AP"}))
    | | seeds | AP | difference |
    |---|---:|---:|---:|
    | without | 2 | 40.5 ± 6.4 | |
    | 2 blocks | 2 | 45.5 ± 6.4 | **+5.0 ± 0.0** |
    """
    titles = ["seeds"]
    for name, title in columns.items():
        titles += [title, "difference"] if name in _COMPARED else [title]
    lines = [f"| | {' | '.join(titles)} |", "|---" + "|---:" * len(titles) + "|"]
    for row in rows:
        cells = [row.label, str(len(row.figures))]
        for name in columns:
            estimate = row.estimate(name)
            cells.append("–" if estimate is None else f"{estimate}")
            if name in _COMPARED:
                cells.append(_difference(row.difference(name)))
        lines.append("|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|")
    return "\n".join(lines)


def blocks(count: int) -> str:
    """Returns a number of blocks in words."""
    return f"{count} block{'s' if count > 1 else ''}" if count else "without DyHead"


def fill(page: Path, name: str, text: str) -> None:
    """Replaces the text of a page between `<!-- NAME -->` and `<!-- end of NAME -->`.

    Raises:
        ValueError: If the page lacks these lines.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    contents = page.read_text(encoding="utf-8") if page.exists() else ""
    between = re.compile(f"(?<={begin}).*?(?={end})", re.DOTALL)
    if not between.search(contents):
        raise ValueError(f"{page} must have the lines {begin.strip()} and {end}.")
    page.write_text(between.sub(lambda _: text.rstrip() + "\n", contents), encoding="utf-8")


def _percent(figures, name):
    return {key: 100 * values[name] for key, values in figures.items()}


def _difference(estimate):
    if estimate is None:
        return ""
    return f"**{estimate:+.1f}**" if estimate.excludes_zero else f"{estimate:+.1f}"
