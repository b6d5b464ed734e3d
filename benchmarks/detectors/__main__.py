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
        str, typer.Option(help="Detectors to measure, by their names on the command line.")
    ] = "atss,faster-rcnn,fcos,reppoints,retinanet",
    blocks: Annotated[
        str, typer.Option(help="Numbers of DyHead blocks; 0 is measured in any case.")
    ] = "1,2,6",
    size: Annotated[
        str, typer.Option(metavar="SIDE|HEIGHTxWIDTH", help="Size of the image in pixels.")
    ] = "512",
    backbone: Annotated[
        str, typer.Option(help="One of `keras_dyhead.backbones.BACKBONES`.")
    ] = "resnet50",
    rounds: Annotated[
        int, typer.Option(min=1, help="Times that each model is measured; the median counts.")
    ] = 5,
    out: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
    page: Annotated[
        Path | None,
        typer.Option(
            help="Markdown file whose part between `<!-- costs -->` and `<!-- end of costs -->` "
            "the table becomes."
        ),
    ] = None,
) -> None:
    """Measure what detectors cost: parameters, GFLOPs, time and memory, without and with DyHead.

    Weights are random; nothing is downloaded. Every model runs in a process of its own. Let nothing
    else run. Where torchvision is installed (`make bench` does that), three of its detectors are
    measured beside ours of the same structure.

    Each detector is written to a JSONL file beside OUT at once. The same command goes on where it
    was interrupted; with the last detector, that file goes.

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
                raise ValueError(f"There is no {name!r}. There are: {', '.join(known)}")
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
