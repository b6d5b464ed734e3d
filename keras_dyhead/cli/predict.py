"""`keras-dyhead predict`."""

import dataclasses
import json
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import typer

from keras_dyhead.cli import options
from keras_dyhead.cli.console import Terminal, app, write_json
from keras_dyhead.printable import counted


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="JPEG or PNG files, or folders of them.")],
    model: options.Model,
    out: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            help="Folder for detections.json and pictures. Without it, JSON is printed.",
        ),
    ] = None,
    score_threshold: options.ScoreThreshold = 0.3,
    tta: options.Tta = False,
    tta_scales: options.TtaScales = None,
    tta_merge: options.TtaMerge = None,
    tile: options.Tile = None,
    overlap: options.Overlap = None,
    max_detections: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum detections per image. Default: the model's limit."),
    ] = None,
    class_names: options.ClassNames = None,
    on_error: options.OnError = "raise",
    overwrite: options.Overwrite = False,
) -> None:
    """Detect objects in images.

    For each object, detections.json has the box (left, top, right, bottom in pixels), label, name
    and confidence. With --out, each image is also saved with its boxes. A broken image stops the
    command before it detects anything; with --on-error skip, it is reported and left out.

    **Examples**

    keras-dyhead predict --model atss.keras street.jpg --out found

    keras-dyhead predict --model atss.keras photos --score-threshold 0.5 --on-error skip

    keras-dyhead predict --model atss.keras street.jpg --out found --tta

    keras-dyhead predict --model atss.keras aerial.png --out found --tile 800 --overlap 0.2
    """
    terminal = Terminal(stderr=out is None)  # stdout is for JSON alone
    loaded = options.load_detector(model, class_names, terminal, hosted=True)
    names = loaded.class_names
    from keras_dyhead.inference import image_detector, read_rgb
    from keras_dyhead.visualization import draw_detections
    from keras_dyhead.visualization.pictures import unique_stems

    views = options.several_views(tta, tta_scales, tta_merge)
    cut = options.tiles(tile, overlap)
    if max_detections is not None:
        loaded.decoder = dataclasses.replace(loaded.decoder, max_detections=max_detections)
    given, paths, faults = options.image_files(images), [], []
    for path in given:
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
        terminal.warn(f"skipped: {fault['error']}")
    if not paths:
        raise ValueError(f"There is no readable image among {[str(path) for path in images]}.")
    pictures = [] if out is None else [out / f"{stem}.png" for stem in unique_stems(paths)]
    if out is not None:
        options.check_outputs([*pictures, out / "detections.json"], given, overwrite)
        out.mkdir(parents=True, exist_ok=True)
    detect = image_detector(loaded, views, cut)
    records, best = [], (0.0, -1)
    for path, picture in zip_longest(paths, pictures):
        image = read_rgb(path)
        found = detect(image)
        records.append(_record(path, image, found, names, score_threshold))
        best = max([best, *zip(found["confidence"].tolist(), found["labels"], strict=True)])
        if picture is not None:
            draw_detections(image, found, names, score_threshold).save(picture)
            number = counted(len(records[-1]["detections"]), "detection")
            terminal.print(f"{path}: {number}, {picture}")
    if not any(record["detections"] for record in records):
        _explain_nothing(*best, names, score_threshold, terminal)
    content = {"model": str(model), "score_threshold": score_threshold}
    content |= options.described_views(views, cut) | {"images": records, "errors": faults}
    if out is None:
        print(json.dumps(content, indent=1))
    else:
        write_json(out / "detections.json", content, terminal)


def _explain_nothing(score, label, names, score_threshold, terminal: Terminal) -> None:
    seen = "the model found nothing"
    if label >= 0:
        seen = f"the best is {score:.3f}, {label if names is None else names[label]}"
    terminal.warn(f"no detection with a confidence of at least {score_threshold:g}: {seen}")


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
