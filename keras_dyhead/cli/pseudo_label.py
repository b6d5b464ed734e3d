"""`keras-dyhead pseudo-label`."""

import dataclasses
import shlex
from pathlib import Path
from typing import Annotated

import typer

from keras_dyhead.cli import options
from keras_dyhead.cli.console import Terminal, app
from keras_dyhead.printable import counted, printable


@app.command()
def pseudo_label(
    model: options.Model,
    images: Annotated[
        Path,
        options.existing_folder(
            "Folder of unlabeled JPEG and PNG files, including its subfolders."
        ),
    ],
    out: Annotated[Path, typer.Option(dir_okay=False, help="COCO JSON file to write.")],
    score_threshold: options.ScoreThreshold = 0.5,
    class_thresholds: Annotated[
        Path | None,
        options.existing_file('JSON file with thresholds per class, such as {"person": 0.7}.'),
    ] = None,
    merge: Annotated[
        Path | None, options.existing_file("COCO JSON file of labeled images to include in --out.")
    ] = None,
    merge_images: Annotated[
        Path | None, options.existing_folder("Image folder of --merge.")
    ] = None,
    tta: options.Tta = False,
    tta_scales: options.TtaScales = None,
    tta_merge: options.TtaMerge = None,
    class_names: options.ClassNames = None,
    on_error: options.OnError = "raise",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace --out, and restart an interrupted run.")
    ] = False,
) -> None:
    """Label images with the detections of a trained model, to train on them.

    Writes a COCO JSON file whose annotations also have a score. Images without a confident
    detection are left out. After an interruption, the same command continues where it stopped. With
    --merge, the file includes the labeled images. Its file names are then relative to the folder
    that contains both image folders, or absolute.

    **Examples**

    keras-dyhead pseudo-label --model teacher.keras --images unlabeled --out pseudo.json

    keras-dyhead pseudo-label --model teacher.keras --images data/unlabeled --tta
    --score-threshold 0.6 --merge data/train.json --merge-images data/train --out data/both.json

    keras-dyhead train --images data --annotations data/both.json --out runs/student
    """
    terminal = Terminal()
    inputs = [merge, class_thresholds, class_names, Path(model)]
    options.check_outputs([out], inputs, overwrite)
    if (merge is None) != (merge_images is None):
        raise ValueError("--merge and --merge-images go together.")
    loaded = options.load_detector(model, class_names, terminal, hosted=True)
    if loaded.class_names is None:
        raise ValueError(f"{model} stores no class names: give --class-names.")
    from keras_dyhead.coco.checks import list_problems, read_json
    from keras_dyhead.inference import PseudoLabels, image_detector

    views = options.several_views(tta, tta_scales, tta_merge)
    stored = f"the published {model}"
    if Path(model).is_file():
        about = Path(model).stat()
        stored = f"{Path(model).resolve()}, {about.st_size} bytes of {about.st_mtime_ns}"
    with options.problems_listed_below():
        labels = PseudoLabels(
            images,
            out,
            loaded.class_names,
            score_threshold,
            read_json(class_thresholds) if class_thresholds else {},
            None if merge is None else (merge, merge_images),
            about={
                "model": stored,
                "tta": None if views is None else dataclasses.asdict(views),
            },
            fresh=overwrite,
            on_error=on_error,
        )
    for line in list_problems(labels.problems):
        terminal.warn(line)
    if labels.num_done:
        terminal.print(f"already done: {counted(labels.num_done, 'image')}")
    progress = options.progress_bar("detecting", terminal)
    report = labels.run(image_detector(loaded, views), progress)
    for fault in report["errors"]:
        terminal.warn(f"skipped: {fault['error']}")
    classes = report["classes"].items()
    counts = ", ".join(f"{printable(name)} {count}" for name, count in classes if count)
    terminal.print(
        f"{counted(report['boxes'], 'box')} in {counted(report['images'], 'image')}, "
        f"{counted(report['left_out'], 'image')} left out. Boxes per class: {counts}"
    )
    if merge is not None:
        labeled = counted(len(labels.labeled["images"]), "labeled image")
        terminal.print(f"included from {merge}: {labeled}")
    command = ["keras-dyhead", "train", "--images", str(labels.folder)]
    command += ["--annotations", str(out), "--out", "runs/mine"]
    terminal.print(f"written: {out}. Train on it with: {shlex.join(command)}")
