"""`keras-dyhead study`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from keras_dyhead.cli.console import app, escape, print_error, quiet_tensorflow
from keras_dyhead.cli.document import MarkedDocument


@app.command()
def study(
    out: Annotated[
        Path, typer.Option(help="Folder for drawings, trainings and the report.")
    ] = Path("runs/study"),
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of every configuration.")] = 3,
    steps: Annotated[int, typer.Option(help="Steps of every training, a multiple of 10.")] = 1600,
    pretraining: Annotated[
        int,
        typer.Option(help="Steps that the backbone of all trainings learns beforehand; 0: none."),
    ] = 2400,
    images: Annotated[int, typer.Option(help="Images to draw and train on.")] = 12000,
    held_out: Annotated[int, typer.Option(help="Images to draw and evaluate on.")] = 400,
    image_size: Annotated[int, typer.Option(help="Height and width of the images in px.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 8,
    channels: Annotated[int, typer.Option(help="Channels of pyramid, DyHead and heads.")] = 32,
    head_convs: Annotated[
        int | None,
        typer.Option(help="Convolutions before the predictions.  [1 in RetinaNet, 0 in others]"),
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 2e-3,
    backbone: Annotated[str, typer.Option(metavar="small|resnet18|resnet50")] = "small",
    detectors: Annotated[
        str,
        typer.Option(
            help="Detectors to train without and with DyHead: several of atss, faster-rcnn, fcos, "
            "reppoints and retinanet, or all."
        ),
    ] = "all",
    blocks: Annotated[
        int, typer.Option(help="DyHead blocks where their number is not what is compared.")
    ] = 2,
    ablate: Annotated[str, typer.Option(help="Detector of the other tables.")] = "atss",
    only: Annotated[
        str,
        typer.Option(
            help="Tables: several of detectors, attentions, alignment, blocks, start and length, "
            "or all."
        ),
    ] = "all",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Trainings at a time.  [one for each core]")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Train nothing: write the report of what is there.")
    ] = False,
    document: Annotated[
        Path | None,
        typer.Option(
            help="Markdown file for the report, plot (.png) and figures (.json) beside it. In a "
            "file with the lines `<!-- study -->` and `<!-- end of study -->`, what lies between "
            "them is replaced.  [study.md in --out]"
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete an earlier study in --out first.")
    ] = False,
) -> None:
    """Measure what DyHead gains over each detector, and what each of its parts adds.

    Draws shapes that are hard to tell apart, lets a backbone learn to classify them, trains every
    configuration from there with the same seeds, steps and images, and evaluates each on images
    held out. Tables, with 95 % intervals over the seeds: detectors without and with DyHead, its
    attentions one by one, in pairs and together, the two alignments, 1, 2, 4 and 6 blocks, random
    and pretrained backbones, and trainings a quarter and half as long.

    Every finished training is kept: after an interruption, the same command goes on. More seeds
    and other tables may be asked for later, too.

    **Examples**

    keras-dyhead study

    keras-dyhead study --only detectors --detectors atss,fcos --seeds 5

    keras-dyhead study --report --document docs/study.md
    """
    console = Console()
    try:
        document = document or out / "study.md"
        target = MarkedDocument(document, "study", overwrite=document == out / "study.md")
        with console.status("starting TensorFlow"), quiet_tensorflow():
            from keras_dyhead import study as studying
            from keras_dyhead.detectors import DETECTORS
        settings = studying.StudySettings(
            steps=steps,
            pretraining=pretraining,
            images=images,
            held_out=held_out,
            image_size=image_size,
            batch_size=batch_size,
            channels=channels,
            head_convs=head_convs,
            learning_rate=learning_rate,
            backbone=backbone,
        )
        names = DETECTORS if detectors == "all" else _names(detectors)
        wanted = studying.TITLES if only == "all" else _names(only)
        tables = studying.plan_tables(names, ablate, blocks, wanted)
        if report and overwrite:
            raise ValueError("--report and --overwrite exclude each other.")
        folder = studying.StudyFolder(out, settings, overwrite)
    except ValueError as error:
        print_error(error)
        raise typer.Exit(2) from None
    failures = {}
    if not report:
        failures = _run(studying, studying.trials(tables, seeds), folder, workers, console)
    for name, error in failures.items():
        print_error(f"{name}: {error}")
    try:
        made = studying.make_report(tables, seeds, folder)
    except ValueError as error:
        print_error(error)
        raise typer.Exit(1 if failures else 2) from None
    text = studying.markdown_report(made, document.with_suffix(".png").name)
    target.write(text)
    document.with_suffix(".json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    studying.plot_report(made).savefig(document.with_suffix(".png"), dpi=100)
    console.print(text, soft_wrap=True, highlight=False, markup=False)
    console.print(f"written: {document}, .json and .png beside it", soft_wrap=True)
    if failures:
        raise typer.Exit(1)


def _run(studying, planned, folder, workers, console) -> dict[str, str]:
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[remaining]}"),
        console=console,
    )
    with bar:
        task = bar.add_task(
            "drawing images, pretraining the backbone", total=len(planned), remaining=""
        )

        def progress(state):
            if state.latest:
                bar.print(f"finished: {escape(state.latest)}", highlight=False)
            bar.update(
                task,
                description="training",
                completed=state.finished,
                remaining="" if state.remaining is None else f"{_duration(state.remaining)} left",
            )

        try:
            return studying.run_study(planned, folder, workers, progress)
        except RuntimeError as error:
            print_error(f"the backbone could not be pretrained: {error}")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            console.print("\nInterrupted. The same command goes on from here.")
            raise typer.Exit(130) from None


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes >= 60 else f"{minutes} min"


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
