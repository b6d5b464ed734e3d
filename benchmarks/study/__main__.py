"""`python -m benchmarks.study`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import runner
from benchmarks.study import images
from benchmarks.study.plan import DETECTORS, TABLES, Trial, plan_tables, seconds_of, trials_of
from benchmarks.study.report import plot_report, write_report
from benchmarks.study.trial import train
from benchmarks.tables import fill

ALL_TABLES, ALL_DETECTORS = ",".join(TABLES), ",".join(DETECTORS)

app = runner.command()


@app.command()
def main(
    only: Annotated[
        str, typer.Option(help=f"Tables among {', '.join(TABLES)}.  [all]", show_default=False)
    ] = ALL_TABLES,
    detectors: Annotated[
        str,
        typer.Option(
            help=f"Detectors of the first table, among {', '.join(DETECTORS)}.  [all]",
            show_default=False,
        ),
    ] = ALL_DETECTORS,
    seeds: runner.Seeds = 3,
    workers: runner.Workers = None,
    backbone_weights: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Initial backbone weights, to make runs on several machines comparable.  "
            "[pretrained here]",
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only list remaining training runs and their hours.")
    ] = False,
    only_report: runner.OnlyReport = False,
    page: Annotated[
        Path | None,
        typer.Option(
            help="Markdown file that gets the report between `<!-- study -->` and "
            "`<!-- end of study -->`, with a plot (.png) next to it."
        ),
    ] = None,
    results: runner.Results = None,
) -> None:
    """Measure the gain of DyHead in each detector, and of each of its parts.

    Draws shapes that are hard to distinguish and pretrains a backbone to classify them. Trains
    every configuration from there with the same seeds, steps and images, and evaluates it on
    held-out images. The report has means, paired differences, and their 95 % intervals.

    Each finished training run adds a line to `benchmarks/study.jsonl`. To continue after an
    interruption, repeat the command. With more seeds or tables, only missing runs are added.

    **Examples**

    python -m benchmarks.study --plan

    python -m benchmarks.study --only detectors,length --detectors atss,fcos --seeds 5

    python -m benchmarks.study --backbone-weights backbone.weights.h5 --workers 2

    python -m benchmarks.study --report --seeds 5 --page docs/study.md
    """
    results = results or runner.HERE / "study.jsonl"
    failed = []
    try:
        tables = plan_tables(only.split(","), detectors.split(","))
        if not only_report:
            trials = trials_of(tables, seeds, _backbone(backbone_weights, plan))
            if plan:
                return _print_plan(trials, runner.read(results, Trial))
            failed = runner.run(trials, results, train, workers, seconds_of)
        found = runner.read(results, Trial)
        found = {trial: line for trial, line in found.items() if trial.seed < seeds}
        text = write_report(tables, found, page and page.with_suffix(".png").name)
        if page is not None:
            fill(page, "study", text)
            plot_report(tables, found).savefig(page.with_suffix(".png"), dpi=100)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    print(text)
    raise typer.Exit(bool(failed))


def _backbone(weights, plan):
    """Returns the backbone that all runs start from; a plan draws and trains nothing."""
    if not plan:
        images.draw(Trial())
    if weights is not None:
        return images.keep_backbone(weights)
    return images.known_backbone(Trial()) if plan else images.pretrained_backbone(Trial())


def _print_plan(trials, finished):
    hours, left = 0.0, [trial for trial in trials if trial not in finished]
    for trial in left:
        hours += seconds_of(trial) / 3600
        print(f"{hours:5.1f} h  {runner.describe(replace(trial, backbone=''))}")
    print(f"{len(left)} of {len(trials)} training runs, about {hours:.1f} hours of one core")


if __name__ == "__main__":
    app()
