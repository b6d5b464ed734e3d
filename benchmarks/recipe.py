"""Gain of DyHead in the README's Python example: `python -m benchmarks.recipe`."""

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
    """A training run of the recipe.

    Args:
        num_blocks: Number of DyHead blocks, 0 for none. Defaults to 6, like `DyHeadNeck`.
        seed: Seed of weights, order and augmentation.
    """

    num_blocks: int = 6
    seed: int = 0


def train(trial: Trial) -> dict:
    """Trains for six epochs at a constant rate, so epoch 3 equals a run of three epochs."""
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
        shuffle=False,  # the dataset shuffles itself
        verbose=0,
    ).history
    names = [name for name in history if name.startswith("val_AP") or name.startswith("val_AR")]
    after = {
        str(epochs): {name.removeprefix("val_"): history[name][number] for name in names}
        for number, epochs in enumerate(EPOCHS)
    }
    return {"figures": after[str(EPOCHS[-1])], "after": after, "losses": history["loss"]}


def build(num_blocks: int):
    """Builds ATSS with the small backbone of `make demo` and other defaults."""
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
    """Draws the shapes of `make demo` unless they exist."""
    from keras_dyhead.coco.shapes import draw_shapes

    if not (DATA / "complete").exists():
        draw_shapes(DATA / "train", IMAGES)
        draw_shapes(DATA / "held_out", HELD_OUT, start=IMAGES)
        (DATA / "complete").touch()


def report(found: dict[Trial, dict]) -> str:
    """Returns the results as a table."""
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
    depths: Annotated[str, typer.Option(help="Numbers of DyHead blocks, 0 for none.")] = "0,6",
    seeds: runner.Seeds = 3,
    workers: runner.Workers = None,
    only_report: runner.OnlyReport = False,
    results: runner.Results = None,
) -> None:
    """Measure the gain of DyHead in the README's Python example, without tuning.

    ATSS with defaults, `optimizer="adam"`, 64 channels and a small backbone with random weights.
    Trains six epochs of 100 steps on the shapes of `make demo`, 8 images of 256 px per step.
    Evaluates after three and six epochs on 200 held-out images.

    Each finished training run adds a line to `benchmarks/recipe.jsonl`. To continue after an
    interruption, repeat the command.

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
