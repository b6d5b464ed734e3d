"""`keras-dyhead visualize`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_dyhead.cli import options
from keras_dyhead.cli.console import Terminal, app
from keras_dyhead.printable import counted


@app.command()
def visualize(
    model: options.Model,
    images: Annotated[
        list[Path],
        typer.Option(
            exists=True,
            help="A JPEG or PNG file, or a folder of them. Repeat the option for several.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for report.html and the PNG files.")
    ],
    score_threshold: options.ScoreThreshold = 0.3,
    sampled: Annotated[
        int, typer.Option(min=0, help="Detections per image to draw sampling points for.")
    ] = 2,
    limit: Annotated[
        int, typer.Option(min=1, help="Maximum number of images. Each adds about a megabyte.")
    ] = 12,
    class_names: options.ClassNames = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Show what a model with DyHead sees: detections, attention maps, sampling points.

    Writes PNG files, and report.html, which contains all of them and works offline. Broken images
    are left out and listed in the report.

    **Examples**

    keras-dyhead visualize --model atss.keras --images photos --out report

    keras-dyhead visualize --model atss.keras --images a.jpg --images b.jpg --out report --sampled 4
    """
    terminal = Terminal()
    loaded = options.load_detector(model, class_names, terminal)
    from keras_dyhead.inference import image_detector
    from keras_dyhead.visualization import write_report

    paths = options.image_files(images)
    if len(paths) > limit:
        terminal.warn(f"the first {limit} of {len(paths)} images (--limit)")
    options.check_outputs([out / "report.html"], paths, overwrite)
    report = write_report(
        loaded,
        paths[:limit],
        out,
        image_detector(loaded),
        score_threshold=score_threshold,
        num_sampled=sampled,
        title=Path(model).name,
        progress=options.progress_bar("drawing", terminal),
    )
    for fault in report.faults:
        terminal.warn(f"left out: {fault}")
    terminal.print(f"written: {report.page} and {counted(len(report.pictures), 'picture')}")
