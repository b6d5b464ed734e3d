"""`python -m benchmarks.sampling`."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmarks.runner import command, sides
from benchmarks.sampling.comparison import compare, markdown
from benchmarks.sampling.scaling import CURVES, fit_exponent, measure_scaling, plot_scaling
from benchmarks.sampling.workload import Workload

app = command()


@app.command()
def main(
    backend: Annotated[
        Literal["tensorflow", "jax", "torch"], typer.Option(help="Keras backend.")
    ] = "tensorflow",
    size: Annotated[
        str, typer.Option(metavar="SIDE|HEIGHTxWIDTH", help="Size of the image in pixels.")
    ] = "512",
    blocks: Annotated[int, typer.Option(help="Blocks of the tower.")] = 6,
    batch: Annotated[int, typer.Option(help="Images.")] = 1,
    channels: Annotated[int, typer.Option(help="Channels of every map.")] = 256,
    only: Annotated[
        Literal["op", "tower"] | None, typer.Option(help="One of the two.  [both]")
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="Calls that count; their median is shown.")
    ] = 5,
    scaling: Annotated[
        bool,
        typer.Option(
            "--scaling", help="Measure growth with pixels, images and blocks instead; with a plot."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Write OUT.json, and OUT.md or, with --scaling, OUT.png."),
    ] = None,
) -> None:
    """Time the deformable convolution and the DyHead tower beside torchvision's, on the CPU.

    Every implementation runs in a process of its own, so that the time to its first result and
    its peak memory are its own; all compute the same from the same weights, which is checked. Let
    nothing else run. Without torchvision (`make bench` installs it) ours are measured alone.

    **Examples**

    python -m benchmarks.sampling --out benchmarks/sampling

    python -m benchmarks.sampling --size 800x1333 --batch 2 --only tower --repeats 1

    python -m benchmarks.sampling --scaling --out docs/scaling
    """
    try:
        workload = Workload(*sides(size), blocks, batch, channels)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

    def progress(what):
        print(f"measuring {what}", file=sys.stderr)

    if scaling:
        report = measure_scaling(workload, backend, repeats, progress)
        for name, rows in report.items():
            for figure, title in CURVES.items():
                power = fit_exponent(rows, figure)
                print(f"{title} grows with {name} to the power of {power:.2f}")
    else:
        peer = importlib.util.find_spec("torchvision") is not None
        parts = (only,) if only else ("op", "tower")
        report = compare(workload, backend, peer, repeats, parts, progress)
        print(markdown(report))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        if scaling:
            plot_scaling(report).savefig(out.with_suffix(".png"), dpi=100)
        else:
            out.with_suffix(".md").write_text(markdown(report), encoding="utf-8")


if __name__ == "__main__":
    app()
