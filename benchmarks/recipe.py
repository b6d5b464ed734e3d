"""What DyHead gains in the README's Python recipe: `python -m benchmarks.recipe`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import runner
from benchmarks.tables import Row, blocks, markdown

EPOCHS = (3, 6)
IMAGES, HELD_OUT, IMAGE_SIZE, CHANNELS = 800, 200, 256, 64
DATA = runner.RUNS / "recipe"

app = runner.command()


@dataclasses.dataclass(frozen=True)
class Trial:
    """A training of the recipe.

    Args:
        num_blocks: DyHead blocks, 0 for none. Defaults to those of `DyHeadNeck`.
        seed: Seed of weights, order and augmentation.
    """

    num_blocks: int = 6
    seed: int = 0


def train(trial: Trial) -> dict:
    """Trains the recipe for six epochs; the rate is constant, so the third is one of three."""
    import keras

    from keras_dyhead.coco import CocoEvaluation, load_coco

    keras.utils.set_random_seed(trial.seed)
    model = build(trial.num_blocks)
    options = {"image_size": (IMAGE_SIZE, IMAGE_SIZE), "preprocessor": model.preprocessor}
    data = load_coco(
        DATA / "train/images",
        DATA / "train/instances.json",
        training=True,
        seed=trial.seed,
        **options,
    )
    held_out = load_coco(DATA / "held_out/images", DATA / "held_out/instances.json", **options)
    model.compile(optimizer="adam")
    history = model.fit(
        data,
        epochs=max(EPOCHS),
        callbacks=[CocoEvaluation(held_out, eval_freq=EPOCHS[0], verbose=0)],
        shuffle=False,  # the data set shuffles itself
        verbose=0,
    ).history
    names = [name for name in history if name.startswith("val_AP") or name.startswith("val_AR")]
    after = {
        str(epochs): {name.removeprefix("val_"): history[name][number] for name in names}
        for number, epochs in enumerate(EPOCHS)
    }
    return {"figures": after[str(EPOCHS[-1])], "after": after, "losses": history["loss"]}


def build(num_blocks: int):
    """Builds ATSS on the small backbone of `make demo`, all else as by default."""
    from keras_dyhead.coco.shapes import SHAPES
    from keras_dyhead.detectors import ATSS
    from keras_dyhead.layers import DyHeadNeck, FeaturePyramid
    from keras_dyhead.training.backbone import small_backbone

    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    return ATSS(
        small_backbone(shape),
        num_classes=len(SHAPES),
        neck=DyHeadNeck(num_blocks, CHANNELS) if num_blocks else None,
        pyramid=FeaturePyramid(CHANNELS),
        image_shape=shape,
    )


def draw() -> None:
    """Draws the shapes of `make demo`, unless they are there."""
    from keras_dyhead.coco.shapes import draw_shapes

    if not (DATA / "complete").exists():
        draw_shapes(DATA / "train", IMAGES)
        draw_shapes(DATA / "held_out", HELD_OUT, start=IMAGES)
        (DATA / "complete").touch()


def report(found: dict[Trial, dict]) -> str:
    """Writes the table of what was found."""
    rows = []
    for epochs in map(str, EPOCHS):
        baseline = None
        for num_blocks in sorted({trial.num_blocks for trial in found}):
            figures = {
                trial.seed: line["after"][epochs]
                for trial, line in found.items()
                if trial.num_blocks == num_blocks
            }
            label = f"{epochs} epochs, {blocks(num_blocks)}"
            rows.append(Row(label, figures, baseline if num_blocks else None))
            baseline = baseline or figures
    return markdown(rows)


@app.command()
def main(
    depths: Annotated[str, typer.Option(help="DyHead blocks to train with, 0 for none.")] = "0,6",
    seeds: runner.Seeds = 3,
    workers: runner.Workers = None,
    only_report: runner.OnlyReport = False,
    results: runner.Results = None,
) -> None:
    """Measure what DyHead gains in the README's Python recipe, nothing tuned.

    ATSS with everything as by default, `optimizer="adam"`, 64 channels, a small backbone with
    random weights. Six epochs of 100 steps of 8 images of 256 px, the shapes of `make demo`;
    evaluated after three and after six on 200 images held out.

    Every finished training is a line of `benchmarks/recipe.jsonl`: after an interruption, the same
    command goes on.

    **Examples**

    python -m benchmarks.recipe

    python -m benchmarks.recipe --depths 0,1,2,6 --seeds 5

    python -m benchmarks.recipe --report
    """
    results = results or Path(__file__).with_suffix(".jsonl")
    counts = [int(count) for count in depths.split(",")]
    trials = [Trial(count, seed) for seed in range(seeds) for count in counts]
    failed = []
    if not only_report:
        draw()
        failed = runner.run(trials, results, train, workers, cost=lambda t: 2 + t.num_blocks)
    print(report(runner.read(results, Trial)))
    raise typer.Exit(bool(failed))


if __name__ == "__main__":
    app()
