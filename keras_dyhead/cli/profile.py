"""`keras-dyhead profile`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from keras_dyhead.cli.console import Terminal, app, print_error, quiet_tensorflow
from keras_dyhead.cli.document import MarkedDocument


@app.command()
def profile(
    detector: Annotated[
        list[str] | None,
        typer.Option(help="Detector to measure, or all; may be given several times.  [all]"),
    ] = None,
    blocks: Annotated[
        str, typer.Option(help="Numbers of DyHead blocks; 0 is measured in any case.")
    ] = "0,1,2,4,6",
    size: Annotated[
        str, typer.Option(metavar="SIDE|HEIGHTxWIDTH", help="Size of the image in pixels.")
    ] = "512",
    backbone: Annotated[
        str,
        typer.Option(
            help="small, resnet18, resnet50, resnet101, resnext101_64x4d, resnext101_64x4d_dcn or "
            "swin_tiny."
        ),
    ] = "resnet50",
    rounds: Annotated[
        int, typer.Option(min=1, help="Times that each model is timed; the median counts.")
    ] = 3,
    sparse: Annotated[
        bool,
        typer.Option(
            "--sparse", help="Sample by sparse products, as `train` does on CPUs: quicker there."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Markdown file for the table; the figures go to a .json file beside it. In a "
            "file with the lines `<!-- profile -->` and `<!-- end of profile -->`, what lies "
            "between them is replaced."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an --out that has no such lines.")
    ] = False,
) -> None:
    """Measure what detectors cost: parameters, GFLOPs and latency, without and with DyHead.

    Weights are random; nothing is downloaded. A GFLOP is a billion multiply-adds of
    convolutions and matrix products. Latency is the time from one preprocessed image to its
    detections, on this machine: let nothing else run. Each detector is compared with itself
    without DyHead.

    **Examples**

    keras-dyhead profile

    keras-dyhead profile --detector atss --blocks 0,6 --size 800x1344 --backbone
    resnext101_64x4d_dcn --sparse

    keras-dyhead profile --size 512 --rounds 5 --out docs/detectors.md
    """
    terminal = Terminal()
    try:
        numbers, image_size = _numbers("--blocks", blocks, ","), _numbers("--size", size, "x")
        if len(image_size) > 2:
            raise ValueError(f"--size must be SIDE or HEIGHTxWIDTH, such as 512. Received: {size}")
        if out is not None:
            document = MarkedDocument(out, "profile", overwrite)
        with terminal.status("starting TensorFlow"), quiet_tensorflow():
            from keras_dyhead import profiling
            from keras_dyhead.detectors import DETECTORS
        names = [name.lower() for name in detector or ["all"]]
        names = list(DETECTORS if "all" in names else dict.fromkeys(names))
        with Progress(console=terminal, transient=True) as bar:
            steps = profiling.num_steps(names, numbers, rounds)
            task = bar.add_task("", total=steps)

            def progress(step):
                bar.advance(task)
                bar.update(task, description=step)

            report = profiling.profile_detectors(
                names,
                numbers,
                (image_size[0], image_size[-1]),
                backbone,
                rounds,
                sparse=sparse,
                progress=progress,
            )
    except ValueError as error:
        print_error(error)
        raise typer.Exit(2) from None
    table = profiling.markdown_table(report)
    terminal.print(table)
    if out is not None:
        document.write(table)
        out.with_suffix(".json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        terminal.print(f"written: {out}, {out.with_suffix('.json')}")


def _numbers(option: str, text: str, separator: str) -> list[int]:
    try:
        return [int(number) for number in text.split(separator)]
    except ValueError:
        raise ValueError(
            f"{option} must be whole numbers with {separator!r} between them. Received: {text!r}"
        ) from None
