"""What a study found: tables with intervals, as a dictionary and as Markdown."""

import dataclasses
import statistics
from collections.abc import Sequence

from keras_dyhead.study.folder import StudyFolder
from keras_dyhead.study.intervals import paired_difference, t_interval
from keras_dyhead.study.plan import TITLES, Row, Table, trials

FIGURES = ("AP", "AR100", "AP50", "AP75", "APs", "APm")
COMPARED = ("AP", "AR100")


def make_report(tables: Sequence[Table], seeds: int, folder: StudyFolder) -> dict:
    """Reads the finished trainings of a folder into tables.

    Args:
        tables: What is to be compared.
        seeds: How many seeds each configuration is to have.
        folder: Where the results are. Trainings that it lacks are listed.

    Returns:
        Dict that `json` can write: `"settings"`, `"seeds"`, `"hours"` that the trainings took
        together, `"made_with"`, `"missing"` and `"tables"`: each with its rows. A row has the
        means of its figures in percent with their intervals, and the `"differences"` of its AP and
        AR from its baseline's.

    Raises:
        ValueError: If no training is finished.

    Example:

    >>> figures = dict.fromkeys(("AP", "AR100", "AP50", "AP75", "APs", "APm"), 0.2)
    >>> result = {"figures": figures, "losses": [1.0], "parameters": 500, "made_with": {}}
    >>> result |= {"seconds": {"all": 90.0}, "seconds_per_step": 0.1}
    >>> folder = StudyFolder("runs/study", StudySettings())
    >>> folder.save(Configuration("atss"), 0, result)  # as `run_study` does
    >>> report = make_report(plan_tables(only=["blocks"]), seeds=1, folder=folder)
    >>> report["tables"][0]["rows"][0]["figures"]["AP"]["mean"], len(report["missing"])
    (20.0, 5)
    """
    found, missing = {}, []
    for configuration, seed in trials(tables, seeds):
        result = folder.load(configuration, seed)
        if result is None:
            missing.append(f"{configuration.name}, seed {seed}")
        else:
            found.setdefault(configuration, {})[seed] = result
    results = [result for by_seed in found.values() for result in by_seed.values()]
    if not results:
        raise ValueError(f"{folder.path} holds no finished training of these tables and seeds.")
    return {
        "settings": dataclasses.asdict(folder.settings) | {"shapes": folder.settings.shapes()},
        "seeds": seeds,
        "hours": sum(result["seconds"]["all"] for result in results) / 3600,
        "made_with": _distinct(result["made_with"] for result in results),
        "missing": missing,
        "tables": [
            {
                "name": table.name,
                "title": TITLES[table.name],
                "rows": [_describe(row, found) for row in table.rows],
            }
            for table in tables
        ],
    }


def _distinct(dicts):
    return [dict(pairs) for pairs in dict.fromkeys(tuple(d.items()) for d in dicts)]


def _describe(row: Row, found: dict) -> dict:
    """What a row's trainings gave, as far as they are finished."""
    results = found.get(row.configuration, {})
    described = {
        "label": row.label,
        "configuration": row.configuration.name,
        "baseline": row.baseline.name if row.baseline else None,
        "seeds": sorted(results),
    }
    if not results:
        return described
    values = [results[seed] for seed in sorted(results)]
    losses = [result["losses"][-1] for result in values]
    baseline = found.get(row.baseline, {})
    return described | {
        "parameters": values[0]["parameters"],
        "figures": {name: _estimate([v["figures"][name] for v in values]) for name in FIGURES},
        "differences": {name: _difference(results, baseline, name) for name in COMPARED},
        "loss": None if None in losses else statistics.fmean(losses),
        "seconds_per_step": statistics.median(v["seconds_per_step"] for v in values),
    }


def _difference(results, baseline, name):
    """In percent; `None` without a baseline or a seed in common."""
    values, others = (
        {seed: 100 * result["figures"][name] for seed, result in by_seed.items()}
        for by_seed in (results, baseline)
    )
    difference = paired_difference(values, others)
    return dataclasses.asdict(difference) if difference else None


def _estimate(values):
    """In percent; `None` where the held-out images have no object of that size."""
    return None if min(values) < 0 else dataclasses.asdict(t_interval([100 * v for v in values]))


def markdown_report(report: dict, plot: str | None = None) -> str:
    """Writes a report as Markdown tables.

    Args:
        report: From `make_report`.
        plot: Path of the plot, as the text is to link it. Defaults to `None`, no picture.

    Example:

    >>> report = make_report(plan_tables(), 3, folder)  # doctest: +SKIP (needs a study)
    >>> text = markdown_report(report, plot="study.png")  # doctest: +SKIP (needs a study)
    """
    settings = report["settings"]
    made_with = "; ".join(
        ", ".join(f"{name} {number}" for name, number in row.items()) for row in report["made_with"]
    )
    head = (
        ""
        if settings["head_convs"] is None
        else f", {settings['head_convs']} convolutions in the head"
    )
    seeds = "Seed 0" if report["seeds"] == 1 else f"Seeds 0 to {report['seeds'] - 1}"
    lines = [
        f"{seeds}; {settings['steps']} steps of "
        f"{settings['batch_size']} images of {settings['image_size']} px, learning rate "
        f"{settings['learning_rate']}, {settings['channels']} channels, backbone "
        f"`{settings['backbone']}`, pretrained for {settings['pretraining']} steps{head}; "
        f"{settings['images']} images to train on, "
        f"{settings['held_out']} held out. {report['hours']:.1f} hours of trainings, several at a "
        f"time. Made with {made_with}.",
        "",
        "AP and AR in percent: mean of the seeds ± half of its 95 % interval. Difference: from the "
        "baseline (the table's first row; of detectors, starts and lengths, the row without "
        "DyHead above), by seed; bold where the interval excludes zero. Loss: of the last tenth "
        "of the training. ms: a training step.",
    ]
    if report["missing"]:
        count = sum(len(row["seeds"]) == 0 for table in report["tables"] for row in table["rows"])
        lines += [
            "",
            f"**Incomplete.** Not finished ({len(report['missing'])} trainings, {count} rows "
            f"empty): {'; '.join(report['missing'])}.",
        ]
    for table in report["tables"]:
        lines += ["", f"### {table['title']}", "", _HEADER, _RULE]
        lines += [_line(row) for row in table["rows"]]
    if plot:
        lines += ["", f"![AP of every configuration with its 95 % interval]({plot})"]
    return "\n".join(lines) + "\n"


_COLUMNS = (
    *("seeds", "parameters", "AP", "difference", "AR", "difference"),
    *("AP50", "AP75", "small", "medium", "loss", "ms"),
)
_HEADER = f"| | {' | '.join(_COLUMNS)} |"
_RULE = "|---" + "|---:" * len(_COLUMNS) + "|"


def _line(row):
    if not row["seeds"]:
        return f"| {row['label']} | 0 |" + " – |" * (len(_COLUMNS) - 1)
    figures = {name: _text(figure) for name, figure in row["figures"].items()}
    differences = [_difference_text(row, name) for name in COMPARED]
    cells = [
        row["label"],
        str(len(row["seeds"])),
        f"{row['parameters'] / 1e3:.0f} k",
        *(figures["AP"], differences[0], figures["AR100"], differences[1]),
        *(figures["AP50"], figures["AP75"], figures["APs"], figures["APm"]),
        "diverged" if row["loss"] is None else f"{row['loss']:.2f}",
        f"{1e3 * row['seconds_per_step']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _difference_text(row, name):
    if row["baseline"] is None:
        return ""
    difference = row["differences"][name]
    text = _text(difference, "+.1f")
    return f"**{text}**" if difference and excludes_zero(difference) else text


def excludes_zero(estimate: dict) -> bool:
    """Whether the interval of an estimate, as a report holds it, lies on one side of zero."""
    half_width = estimate["half_width"]
    return half_width is not None and abs(estimate["mean"]) > half_width


def _text(estimate, form=".1f"):
    if estimate is None:
        return "–"
    width = estimate["half_width"]
    mean = round(estimate["mean"], 1) + 0.0  # no "-0.0"
    return f"{mean:{form}}" + ("" if width is None else f" ± {width:.1f}")
