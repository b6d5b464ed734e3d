"""`python -m benchmarks.detectors`."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.detectors.comparison import compare, markdown
from benchmarks.detectors.workload import Workload
from benchmarks.runner import command, sides
from benchmarks.tables import fill

app = command()


@app.command()
def main(
    detectors: Annotated[
        str, typer.Option(help="Detectors to measure, named as in `keras-dyhead train`.")
    ] = "atss,faster-rcnn,fcos,reppoints,retinanet",
    blocks: Annotated[
        str, typer.Option(help="Numbers of DyHead blocks; 0 is always measured.")
    ] = "1,2,6",
    size: Annotated[
        str, typer.Option(metavar="SIDE|HEIGHTxWIDTH", help="Size of the image in pixels.")
    ] = "512",
    backbone: Annotated[
        str, typer.Option(help="One of `keras_dyhead.backbones.BACKBONES`.")
    ] = "resnet50",
    rounds: Annotated[
        int, typer.Option(min=1, help="Measurements per model, of which the median is taken.")
    ] = 5,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            help="Markdown file that gets the table between `<!-- costs -->` and "
            "`<!-- end of costs -->`."
        ),
    ] = None,
) -> None:
    """Measure parameters, GFLOPs, time and memory of detectors with and without DyHead.

    Weights are random, and nothing is downloaded. Every model runs in a separate process. Close
    other programs. If torchvision is installed (`make bench` does that), three of its detectors
    are measured next to ours of the same structure.

    Results go to a JSONL file next to OUT after each detector. To continue after an interruption,
    repeat the command. The file is removed at the end.

    **Examples**

    python -m benchmarks.detectors --detectors atss --blocks 6 --rounds 3

    python -m benchmarks.detectors --detectors fcos,retinanet,faster-rcnn --size 800x1333

    python -m benchmarks.detectors --out benchmarks/detectors.json --page docs/detectors.md
    """
    from keras_dyhead.backbones import BACKBONES
    from keras_dyhead.detectors import DETECTORS

    try:
        names = detectors.split(",")
        for name, known in (*((name, DETECTORS) for name in names), (backbone, BACKBONES)):
            if name not in known:
                raise ValueError(f"The name must be one of {', '.join(known)}. Received: {name!r}")
        workload = Workload(*sides(size), backbone)
        peer = importlib.util.find_spec("torchvision") is not None and backbone == "resnet50"
        report = compare(
            workload,
            names,
            [int(number) for number in blocks.split(",")],
            rounds,
            peer,
            out and out.with_suffix(".jsonl"),
            lambda what: print(what, file=sys.stderr),
        )
        print(markdown(report))
        if page is not None:
            fill(page, "costs", markdown(report))
        if out is not None:
            out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            out.with_suffix(".jsonl").unlink()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


if __name__ == "__main__":
    app()
