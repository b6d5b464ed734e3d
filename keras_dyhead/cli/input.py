"""`keras-dyhead input`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from keras_dyhead.cli import options
from keras_dyhead.cli.console import Terminal, app, quiet_tensorflow
from keras_dyhead.printable import counted


@app.command("input")
def show_input(
    context: typer.Context,
    images: Annotated[Path, options.existing_folder("Folder of the images.")],
    annotations: options.Annotations,
    overrides: options.Overrides = None,
    recipe: options.Recipe = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 4,
    image_size: options.ImageSize = None,
    seed: Annotated[int, typer.Option(help="Seed for shuffling and augmentation.")] = 0,
    on_error: options.OnError = "raise",
    verify: Annotated[
        bool, typer.Option(help="Decode every file once first, to find broken ones.")
    ] = True,
    seconds: Annotated[
        float, typer.Option(min=0.0, help="Seconds to measure throughput for.")
    ] = 10.0,
    steps: Annotated[
        int,
        typer.Option(
            min=0, help="Training steps to run, to measure how long they wait for images."
        ),
    ] = 0,
    pictures: Annotated[int, typer.Option(min=0, help="Augmented images to draw.")] = 16,
    out: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Folder for the report (input.json) and the pictures (examples.png).",
        ),
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Show the training data, its throughput, and whether training would wait for images.

    Opens the images with the settings of `train`, lists problems, counts images, boxes and
    canvases, and draws some augmented images with their boxes. Measures how many images per second
    are read, decoded, augmented and batched while nothing else runs. With --steps, it also trains a
    model for that many steps, reports what share of the time went into waiting, and discards the
    model.

    **Examples**

    keras-dyhead input --images photos --annotations photos.json --out runs/photos-input

    keras-dyhead input --images train2017 --annotations instances_train2017.json
    --recipe dyhead_r50_atss_fpn_1x --batch-size 16 --seconds 60 --steps 50 --on-error skip
    """
    terminal = Terminal()
    given = options.given_options(context, ("batch_size", "image_size", "on_error"))
    given |= {"images": images, "annotations": annotations, "seed": seed}
    names = ["input.json", "examples.png"] if pictures else ["input.json"]
    if out is not None:
        options.check_outputs([out / name for name in names], [annotations], overwrite)
    with terminal.status("starting TensorFlow"), quiet_tensorflow():
        from keras_dyhead.training.data import build_preprocessor, open_training_data
        from keras_dyhead.training.model import build_detector
        from keras_dyhead.training.plan import resolve_settings
        from keras_dyhead.training.throughput import measure_throughput, measure_waiting
    settings = options.training_settings(recipe, overrides, given)
    with options.problems_listed_below():
        preprocessor = build_preprocessor(settings)
        dataset = open_training_data(settings, preprocessor, seed=settings.seed, verify=verify)
    if steps:
        resolved = resolve_settings(settings, dataset.annotations)  # raises without boxes
    report = _count(dataset, settings)
    progress = options.progress_bar("measuring the throughput", terminal)
    report["measured"] = measure_throughput(dataset, seconds, progress)
    if steps:
        progress = options.progress_bar("training", terminal)
        whole = len(dataset) * resolved.epochs
        trained = build_detector(resolved, dataset.class_names, whole, preprocessor)
        report["training"] = measure_waiting(trained, dataset, steps, progress)
    _print(report, terminal)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "input.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        if pictures:
            _draw(dataset, settings, preprocessor, pictures, out / "examples.png")
        terminal.print(f"written to {out}: {' and '.join(names)}")


def _count(dataset, settings) -> dict[str, Any]:
    import numpy as np

    opened = dataset.annotations
    boxes = [len(image.boxes) for image in opened.images]
    labels = np.concatenate([image.labels for image in opened.images]).astype(int)
    per_class = np.bincount(labels, minlength=len(opened.class_names)).tolist()
    return {
        "images": len(boxes),
        "boxes": sum(boxes),
        "boxes_per_image": {
            "mean": round(float(np.mean(boxes)), 3),
            "median": float(np.median(boxes)),
            "largest": max(boxes),
        },
        "images_without_boxes": boxes.count(0),
        "boxes_by_class": dict(zip(opened.class_names, per_class, strict=True)),
        "batch_size": settings.batch_size,
        "steps_per_epoch": len(dataset),
        "problems": [str(problem) for problem in opened.problems],
    }


def _draw(dataset, settings, preprocessor, count: int, path: Path) -> None:
    """Draws the first images of the first epoch as the model sees them before normalization."""
    from keras_dyhead.training.data import load_images
    from keras_dyhead.visualization.detections import plot_examples

    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "channel_order": "RGB"}
    unnormalized = preprocessor.from_config(preprocessor.get_config() | plain)
    opened, seed = dataset.annotations, settings.seed
    drawn = load_images(settings, opened, unnormalized, training=True, seed=seed)
    examples = list(drawn.unbatch().take(count).as_numpy_iterator())
    images, targets = zip(*examples, strict=True)
    plot_examples(images, targets, dataset.class_names).savefig(path, dpi=110)


def _print(report: dict[str, Any], terminal: Terminal) -> None:
    from keras_dyhead.coco.checks import list_problems

    measured, boxes = report["measured"], report["boxes_per_image"]
    terminal.print(
        f"{counted(report['images'], 'image')}, {counted(report['boxes'], 'box')}: "
        f"{boxes['mean']} per image, at most {boxes['largest']}; "
        f"{counted(report['images_without_boxes'], 'image')} without boxes"
    )
    steps, size = counted(report["steps_per_epoch"], "step"), counted(report["batch_size"], "image")
    terminal.print(f"{steps} of {size} per epoch")
    table = Table()
    for heading in ("canvas (height x width)", "images", "filled"):
        table.add_column(heading, justify="right")
    for canvas in measured["canvases"]:
        height, width = canvas["size"]
        table.add_row(f"{height} x {width}", str(canvas["images"]), f"{canvas['filled']:.0%}")
    terminal.print(table, soft_wrap=False)
    terminal.print(
        f"{measured['images_per_second']} images per second over {measured['seconds']} s "
        f"on {counted(measured['processors'], 'processor')}, "
        f"{measured['cpu_seconds_per_image'] * 1000:.1f} ms of CPU time per image; "
        f"first batch after {measured['first_batch_seconds']} s; "
        f"{measured['boxes_per_image']} boxes per image after cropping"
    )
    if training := report.get("training"):
        terminal.print(
            f"{counted(training['steps'], 'training step')} spent {training['waiting_share']:.1%} "
            f"of the time waiting for images: {training['waiting_seconds'] * 1000:.1f} ms of "
            f"waiting and {training['step_seconds'] * 1000:.0f} ms of computing per step"
        )
    problems = report["problems"]
    terminal.print(f"problems: {len(problems) or 'none'}")
    for line in list_problems(problems):
        terminal.warn(f"  {line}")
