"""`convert`, `evaluate`, `predict` and `export`: what one does with a model that exists."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from keras_dyhead.cli.console import app, escape, print_figures, quiet_tensorflow
from keras_dyhead.cli.inputs import (
    Annotations,
    ClassNames,
    Model,
    OnError,
    OnErrorOfImages,
    image_files,
    input_errors,
    load_detector,
)
from keras_dyhead.cli.test_time import Tta, TtaMerge, TtaScales, augmentation

_RAISE_OR_SKIP = ("raise", "skip")


@app.command()
def convert(
    name: Annotated[
        str, typer.Argument(help="Config name of the published model; `list` shows them all.")
    ],
    file: Annotated[
        Path | None, typer.Argument(help="The downloaded .pth file, or a .safetensors file.")
    ] = None,
    out: Annotated[Path | None, typer.Argument(help="The .keras file to write.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the .keras file if there is one.")
    ] = False,
) -> None:
    """Turn a published PyTorch checkpoint into a Keras model.

    Reading a .pth file needs PyTorch (pip install 'keras-dyhead[convert]'); the .keras file does
    not. It holds the weights, the preprocessing and the decoding, and detects what the original
    does.

    **Examples**

    keras-dyhead convert list

    keras-dyhead convert dyhead_r50_atss_fpn_1x dyhead_r50_atss_fpn_1x.pth atss.keras
    """
    console = Console()
    with input_errors(), console.status("starting TensorFlow"), quiet_tensorflow():
        from keras_dyhead import checkpoints
        from keras_dyhead.training.durable import save_model
    if name == "list":
        for key, record in checkpoints.PUBLISHED.items():
            console.print(f"{key:<42}{record.ap:>5} AP\n  {record.source}", soft_wrap=True)
        return
    if file is None or out is None:
        raise typer.BadParameter("NAME, FILE and OUT are needed, or `list` alone.")
    with input_errors(), console.status(f"reading {file}"):
        if out.suffix != ".keras":
            raise ValueError(f"OUT must end in .keras. Received: {out}")
        if out.exists() and not overwrite:
            raise ValueError(f"{out} exists: replace it with --overwrite, or choose another.")
        model = checkpoints.load_checkpoint(name, file)
        out.parent.mkdir(parents=True, exist_ok=True)
        save_model(model, out)
    record = (checkpoints.PUBLISHED | checkpoints.COMPOSED)[name]
    published = "" if record.ap is None else f", published with {record.ap} AP on COCO val2017"
    console.print(
        f"{out}: {record.detector}, {model.count_params():,} parameters{published}", soft_wrap=True
    )


@app.command()
def evaluate(
    model: Model,
    images: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Image folder.")],
    annotations: Annotations,
    out: Annotated[
        Path | None, typer.Option(help="JSON file for the figures, those of every class, too.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="JSON file for the detections, in COCO's results format.")
    ] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Print the figures of every class, too.")
    ] = False,
    tta: Tta = False,
    tta_scales: TtaScales = None,
    tta_merge: TtaMerge = "vote",
    class_names: ClassNames = None,
    on_error: OnError = "raise",
) -> None:
    """Measure a model on COCO annotations, each image at the size that the model wants.

    Categories go with the model's classes by their names, or, where neither model nor
    --class-names say these, by the order of their ids.

    **Examples**

    keras-dyhead evaluate --model atss.keras --images val2017
    --annotations instances_val2017.json --out metrics.json --per-class

    keras-dyhead evaluate --model atss.keras --images val2017
    --annotations instances_val2017.json --tta --tta-scales 0.75,1,1.5
    """
    console = Console()
    with input_errors():
        loaded, names = load_detector(model, class_names, console)
        from keras_dyhead.coco import CocoAnnotations
        from keras_dyhead.coco.detections import write_detections
        from keras_dyhead.inference import evaluate_images

        views = augmentation(tta, tta_scales, tta_merge)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the problems are listed below
            opened = CocoAnnotations(annotations, images, class_names=names, on_error=on_error)
        for problem in opened.problems:
            console.print(f"[yellow]{escape(problem)}[/]", soft_wrap=True)

        def progress(sequence):
            return track(sequence, "detecting", console=console, transient=True)

        figures, detections = evaluate_images(loaded, opened, progress, tta=views, per_class=True)
    classes = figures.pop("per_class")
    print_figures(figures, len(opened.images), console)
    if per_class:
        _print_classes(classes, console)
    if out is not None:
        record = {
            "figures": figures,
            "per_class": classes,
            "images_evaluated": len(opened.images),
            "class_names": opened.class_names,
            "model": str(model),
            "annotations": str(annotations),
            "tta": None if views is None else dataclasses.asdict(views),
            "problems": [str(problem) for problem in opened.problems],
        }
        _write(out, record, console)
    if results is not None:
        write_detections(detections, results)
        console.print(f"written: {results}", soft_wrap=True, highlight=False)


@app.command()
def predict(
    images: Annotated[
        list[Path], typer.Argument(help="JPEG or PNG files, or folders of such files.")
    ],
    model: Model,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for detections.json and the pictures; else JSON is printed."),
    ] = None,
    score_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out detections less confident than this.")
    ] = 0.3,
    tta: Tta = False,
    tta_scales: TtaScales = None,
    tta_merge: TtaMerge = "vote",
    class_names: ClassNames = None,
    on_error: OnErrorOfImages = "raise",
) -> None:
    """Detect objects in images.

    For each image, detections.json lists box (left, top, right, bottom in pixels), label, name and
    confidence; with --out there is also a picture of each with its boxes. Broken images are named;
    with --on-error raise nothing is detected then.

    **Examples**

    keras-dyhead predict --model atss.keras street.jpg --out found

    keras-dyhead predict --model atss.keras photos --score-threshold 0.5 --on-error skip

    keras-dyhead predict --model atss.keras street.jpg --out found --tta
    """
    console = Console(stderr=out is None)  # where JSON is printed, nothing else is
    with input_errors():
        if on_error not in _RAISE_OR_SKIP:
            raise ValueError(f"`on_error` must be one of {_RAISE_OR_SKIP}. Received: {on_error!r}")
        loaded, names = load_detector(model, class_names, console)
        from keras_dyhead.inference import image_detector, read_rgb
        from keras_dyhead.visualization import draw_detections, unique_stems

        views = augmentation(tta, tta_scales, tta_merge)
        paths, faults = [], []
        for path in image_files(images):
            try:
                read_rgb(path)
                paths.append(path)
            except ValueError as error:
                faults.append({"file": str(path), "error": str(error)})
        if faults and on_error == "raise":
            raise ValueError(
                "\n".join(fault["error"] for fault in faults)
                + "\n(--on-error skip leaves these images out)"
            )
        for fault in faults:
            console.print(f"[yellow]skipped: {escape(fault['error'])}[/]", soft_wrap=True)
        if not paths:
            raise ValueError(f"There is no readable image among {[str(path) for path in images]}.")
        detect, records = image_detector(loaded, views), []
        for path, stem in zip(paths, unique_stems(paths), strict=True):
            image = read_rgb(path)
            found = detect(image)
            records.append(_record(path, image, found, names, score_threshold))
            if out is not None:
                out.mkdir(parents=True, exist_ok=True)
                picture = out / f"{stem}.png"
                draw_detections(image, found, names, score_threshold).save(picture)
                console.print(
                    f"{path}: {len(records[-1]['detections'])} detections, {picture}",
                    soft_wrap=True,
                    highlight=False,
                    markup=False,
                )
    content = {"model": str(model), "images": records, "errors": faults}
    if out is None:
        print(json.dumps(content, indent=1))
    else:
        _write(out / "detections.json", content, console)


@app.command()
def export(
    model: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, help="A .keras file, of `train` or `convert`."),
    ],
    out: Annotated[
        Path, typer.Option(help="File to write; a folder for saved_model. Must not exist yet.")
    ],
    format: Annotated[
        str, typer.Option(metavar="saved_model|onnx|litert", help="What is to run the model.")
    ] = "saved_model",
    image_size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="HEIGHT WIDTH",
            help="Size that images are fitted into, for models that leave it open; litert needs "
            "one.",
        ),
    ] = None,
) -> None:
    """Write a model as a file that runs without Keras and this package.

    Preprocessing and decoding are inside: the file takes RGB images of any size, and returns boxes
    in their pixels. onnx needs tf2onnx (pip install 'keras-dyhead[export]').

    **Examples**

    keras-dyhead export atss.keras --out saved_model

    keras-dyhead export atss.keras --format onnx --out atss.onnx

    keras-dyhead export atss.keras --format litert --image-size 320 320 --out atss.tflite
    """
    console = Console()
    with input_errors():
        formats = ("saved_model", "onnx", "litert")
        if format not in formats:
            raise ValueError(f"`format` must be one of {formats}. Received: {format!r}")
        if out.exists():
            raise ValueError(f"{out} exists: choose another name, or delete it.")
        loaded, _ = load_detector(model, None, console)
        from keras_dyhead import export as exporters

        out.parent.mkdir(parents=True, exist_ok=True)
        with console.status(f"converting to {format}, which takes minutes for large models"):
            getattr(exporters, f"export_{format}")(loaded, out, image_size)
    console.print(f"written: {out}", soft_wrap=True, highlight=False)


def _print_classes(classes: list[dict], console: Console) -> None:
    table = Table(title="by class")
    table.add_column("class", style="bold")
    names = [name for name in classes[0] if name not in ("category_id", "name")]
    for name in names:
        table.add_column(name, justify="right")
    for record in classes:
        values = [record[name] for name in names]
        texts = [str(v) if isinstance(v, int) else "-" if v < 0 else f"{v:.3f}" for v in values]
        table.add_row(escape(record["name"]), *texts)
    console.print(table)


def _record(path, image, found, names, score_threshold) -> dict:
    rows = zip(found["boxes"].tolist(), found["labels"].tolist(), found["confidence"], strict=True)
    return {
        "file": str(path),
        "height": image.shape[0],
        "width": image.shape[1],
        "detections": [
            {"box": [round(value, 2) for value in box], "label": label}
            | ({} if names is None else {"name": names[label]})
            | {"confidence": round(float(score), 5)}
            for box, label, score in rows
            if score >= score_threshold
        ],
    }


def _write(path: Path, content, console: Console) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    console.print(f"written: {path}", soft_wrap=True, highlight=False)
