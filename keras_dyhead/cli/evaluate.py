"""`keras-dyhead evaluate`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from keras_dyhead.cli import options
from keras_dyhead.cli.console import Terminal, app, print_figures, write_json
from keras_dyhead.printable import printable


@app.command()
def evaluate(
    model: options.Model,
    images: Annotated[Path, options.existing_folder("Folder of the images.")],
    annotations: options.Annotations,
    out: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="JSON file for the metrics, including those of each class."
        ),
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="JSON file for the detections, in COCO's results format."
        ),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Folder for plots: the confusion matrix (confusion.png) and the precision-recall "
            "curves (precision_recall.png).",
        ),
    ] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Also print the metrics of each class.")
    ] = False,
    tta: options.Tta = False,
    tta_scales: options.TtaScales = None,
    tta_merge: options.TtaMerge = None,
    tile: options.Tile = None,
    overlap: options.Overlap = None,
    max_detections: Annotated[
        int, typer.Option(min=11, help="Maximum detections to count per image and class.")
    ] = 100,
    size_limits: Annotated[
        tuple[float, float],
        typer.Option(
            help="Sides in px up to which objects are small, and from which they are large."
        ),
    ] = (32.0, 96.0),
    class_names: options.ClassNames = None,
    on_error: options.OnError = "raise",
    overwrite: options.Overwrite = False,
) -> None:
    """Evaluate a model on COCO annotations.

    Images are resized as the model expects. Categories are matched to the model's classes by name.
    If neither the model nor --class-names provides names, they are matched by the order of their
    ids. Categories that the model lacks are an error, or left out with --on-error skip.

    **Examples**

    keras-dyhead evaluate --model atss.keras --images val2017
    --annotations instances_val2017.json --out metrics.json --per-class

    keras-dyhead evaluate --model atss.keras --images val2017
    --annotations instances_val2017.json --tta --tta-scales 0.75,1,1.5
    """
    terminal = Terminal()
    drawn = [] if plots is None else [plots / "confusion.png", plots / "precision_recall.png"]
    inputs = [annotations, class_names, Path(model)]
    options.check_outputs([out, results, *drawn], inputs, overwrite)
    loaded = options.load_detector(model, class_names, terminal, hosted=True)
    from keras_dyhead.coco import CocoAnnotations, evaluate_coco, write_detections
    from keras_dyhead.coco.checks import list_problems
    from keras_dyhead.inference import image_detector

    views = options.several_views(tta, tta_scales, tta_merge)
    cut = options.tiles(tile, overlap)
    with options.problems_listed_below():
        opened = CocoAnnotations(
            annotations, images, class_names=loaded.class_names, on_error=on_error
        )
    for line in list_problems(opened.problems):
        terminal.warn(line)
    if opened.other_classes and on_error == "raise":
        raise ValueError(
            f"{annotations} has categories that the model lacks: {opened.other_classes[:20]} "
            "(`--on-error skip` leaves them out)"
        )
    if max_detections > max(100, loaded.decoder.max_detections):
        loaded.decoder = dataclasses.replace(loaded.decoder, max_detections=max_detections)
    rules = {"max_detections": max_detections, "size_limits": size_limits}
    verbose = int(terminal.is_terminal)
    detect = image_detector(loaded, views, cut)
    result = evaluate_coco(detect, opened, **rules, verbose=verbose)
    print_figures(result.figures, len(opened.images), terminal, size_limits)
    if per_class:
        _print_classes(result.per_class, terminal)
    if plots is not None:
        _draw(*drawn, opened, result)
        terminal.print(f"written to {plots}: confusion.png and precision_recall.png")
    if out is not None:
        record = {
            "figures": result.figures,
            "per_class": result.per_class,
            "images_evaluated": len(opened.images),
            "class_names": opened.class_names,
            "model": str(model),
            "annotations": str(annotations),
            **options.described_views(views, cut),
            **rules,
            "problems": [str(problem) for problem in opened.problems],
        }
        write_json(out, record, terminal)
    if results is not None:
        write_detections(result.detections, results)
        terminal.print(f"written: {results}")


def _draw(confusion: Path, precision_recall: Path, opened, result) -> None:
    from keras_dyhead import visualization

    confusion.parent.mkdir(parents=True, exist_ok=True)
    names, matrix = opened.class_names, visualization.confusion_matrix(opened, result.detections)
    visualization.plot_confusion(matrix, names).savefig(confusion, dpi=120)
    order = opened.labels_of(row["category_id"] for row in result.per_class)
    curves = visualization.plot_precision_recall(result.precision, [names[i] for i in order])
    curves.savefig(precision_recall, dpi=120)


def _print_classes(classes: list[dict], terminal: Terminal) -> None:
    table = Table(title="by class")
    table.add_column("class", style="bold")
    names = [name for name in classes[0] if name not in ("category_id", "name")]
    for name in names:
        table.add_column(name, justify="right")
    for record in classes:
        values = [record[name] for name in names]
        texts = [str(v) if isinstance(v, int) else "-" if v < 0 else f"{v:.3f}" for v in values]
        table.add_row(printable(record["name"]), *texts)
    terminal.print(table, soft_wrap=False)
