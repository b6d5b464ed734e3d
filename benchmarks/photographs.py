"""Gain of DyHead on your own photographs: `python -m benchmarks.photographs`."""

import dataclasses
import functools
import hashlib
import json
import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import runner
from benchmarks.tables import Row, blocks, markdown

FOLDS = 3

app = runner.command()


@dataclasses.dataclass(frozen=True)
class Trial:
    """A training run on all photographs except those of a fold.

    Args:
        data: SHA-256 of the annotations.
        num_blocks: Number of DyHead blocks, 0 for none.
        fold: Index of the first held-out photograph; every third one from there is held out.
        seed: Seed of weights, order and augmentation.
    """

    data: str
    num_blocks: int = 0
    fold: int = 0
    seed: int = 0


def train(trial: Trial, images: Path, instances: Path) -> dict:
    """Trains with the defaults of `keras-dyhead train` and evaluates on the fold."""
    from keras_dyhead.training import Training, TrainingSettings

    with tempfile.TemporaryDirectory() as folder:
        parts = split(json.loads(instances.read_text(encoding="utf-8")), trial.fold)
        for name, part in zip(("train", "held_out"), parts, strict=True):
            Path(folder, f"{name}.json").write_text(json.dumps(part), encoding="utf-8")
        settings = TrainingSettings(
            images=images,
            annotations=Path(folder, "train.json"),
            val_images=images,
            val_annotations=Path(folder, "held_out.json"),
            num_blocks=trial.num_blocks,
            keep="last",
            seed=trial.seed,
        )
        return {"figures": Training(settings, Path(folder, "run")).run(verbose=0)["figures"]}


def split(contents: dict, fold: int) -> list[dict]:
    """Splits the contents of a COCO file into all other folds and the given fold."""
    order = sorted(image["id"] for image in contents["images"])
    held_out = set(order[fold::FOLDS])
    return [
        contents
        | {
            "images": [i for i in contents["images"] if (i["id"] in held_out) == wanted],
            "annotations": [
                a for a in contents["annotations"] if (a["image_id"] in held_out) == wanted
            ],
        }
        for wanted in (False, True)
    ]


def report(found: dict[Trial, dict]) -> str:
    """Returns a table per set of photographs; a seed's figure is the mean over its folds."""
    tables = []
    for data in dict.fromkeys(trial.data for trial in found):
        rows = []
        for depth in sorted({trial.num_blocks for trial in found if trial.data == data}):
            figures = {}
            for seed in sorted({trial.seed for trial in found}):
                trials = [Trial(data, depth, fold, seed) for fold in range(FOLDS)]
                if all(trial in found for trial in trials):
                    lines = [found[trial]["figures"] for trial in trials]
                    figures[seed] = {
                        name: statistics.fmean(line[name] for line in lines) for name in lines[0]
                    }
            rows.append(Row(blocks(depth), figures, rows[0].figures if depth and rows else None))
        tables.append(f"Annotations {data[:8]}:\n\n{markdown(rows)}")
    return "\n\n".join(tables)


@app.command()
def main(
    images: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of images.")],
    instances: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="Their COCO JSON file.")
    ],
    depths: Annotated[str, typer.Option(help="Numbers of DyHead blocks, 0 for none.")] = "0,1",
    seeds: runner.Seeds = 3,
    workers: runner.Workers = None,
    only_report: runner.OnlyReport = False,
    results: runner.Results = None,
) -> None:
    """Measure the gain of DyHead on a small set of photographs by cross-validation.

    Three folds: trains on two thirds of the photographs with the defaults of `keras-dyhead train`,
    and evaluates on the other third. The figure of a seed is the mean over its folds.

    Each finished training run adds a line to `benchmarks/photographs.jsonl`. To continue after an
    interruption, repeat the command.

    **Examples**

    python -m benchmarks.photographs photos instances.json

    python -m benchmarks.photographs photos instances.json --depths 0,1,2 --seeds 5
    """
    results = results or Path(__file__).with_suffix(".jsonl")
    data = hashlib.sha256(instances.read_bytes()).hexdigest()
    trials = [
        Trial(data, depth, fold, seed)
        for seed in range(seeds)
        for fold in range(FOLDS)
        for depth in map(int, depths.split(","))
    ]
    failed = []
    if not only_report:
        task = functools.partial(train, images=images, instances=instances)
        failed = runner.run(trials, results, task, workers, cost=lambda t: 2 + t.num_blocks)
    print(report(runner.read(results, Trial)))
    raise typer.Exit(bool(failed))


if __name__ == "__main__":
    app()
