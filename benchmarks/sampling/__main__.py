"""`python -m benchmarks.sampling`."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmarks.measurement import gpu_name
from benchmarks.runner import command, sides
from benchmarks.sampling.comparison import compare, markdown
from benchmarks.sampling.scaling import CURVES, fit_exponent, measure_scaling, plot_scaling
from benchmarks.sampling.workload import Workload

app = command()


@app.command()
def main(
    backend: Annotated[
        str, typer.Option(metavar="LIST", help="Keras backends: tensorflow, jax, torch.")
    ] = "tensorflow",
    dtype: Annotated[
        str, typer.Option(metavar="LIST", help="Dtypes of keras_dyhead: float32, bfloat16.")
    ] = "float32",
    size: Annotated[
        str, typer.Option(metavar="LIST", help="Image sizes in pixels, SIDE or HEIGHTxWIDTH.")
    ] = "512",
    blocks: Annotated[int, typer.Option(help="Blocks of the tower.")] = 6,
    batch: Annotated[int, typer.Option(help="Batch size.")] = 1,
    channels: Annotated[int, typer.Option(help="Channels of every map.")] = 256,
    only: Annotated[
        Literal["op", "tower"] | None, typer.Option(help="Measure only one.  [both]")
    ] = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="Timed calls, of which the median is taken.")
    ] = 5,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Compute on the GPU and measure its memory.")
    ] = False,
    minutes: Annotated[
        float, typer.Option(min=0, help="Time limit; the rest is left out.  [no limit]")
    ] = math.inf,
    scaling: Annotated[
        bool,
        typer.Option(
            "--scaling", help="Measure and plot growth with pixels, images and blocks instead."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Write OUT.json, and OUT.md or, with --scaling, OUT.png."),
    ] = None,
) -> None:
    """Compare the deformable convolution and the DyHead tower with torchvision's.

    Every implementation runs in a separate process, to measure its own first call and peak memory.
    All compute the same from the same weights; this is checked. Close other programs. Without
    torchvision (`make bench` installs it), only keras_dyhead is measured.

    Each row is written to OUT.jsonl immediately. To continue after an interruption or to repeat
    failed rows, repeat the command. OUT.jsonl is removed after the last row.

    **Examples**

    python -m benchmarks.sampling --out benchmarks/sampling

    python -m benchmarks.sampling --size 800x1333 --batch 2 --only tower --repeats 1

    python -m benchmarks.sampling --gpu --backend jax,torch --dtype float32,bfloat16
    --size 512,800x1333 --batch 2 --minutes 6 --out benchmarks/gpu

    python -m benchmarks.sampling --scaling --out docs/scaling
    """
    backends = backend.split(",")
    try:
        workloads = [
            Workload(*sides(side), blocks, batch, channels, name)
            for side in size.split(",")
            for name in dtype.split(",")
        ]
        if unknown := set(backends) - {"tensorflow", "jax", "torch"}:
            raise ValueError(f"Keras has no backend {', '.join(unknown)}.")
        if scaling and (gpu or len(workloads) * len(backends) > 1):
            raise ValueError("--scaling needs a CPU, one backend, one size and one dtype.")
        if gpu:
            gpu_name()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None

    def progress(what):
        print(what, file=sys.stderr)

    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    if scaling:
        report = measure_scaling(workloads[0], backend, repeats, progress)
        for name, rows in report.items():
            for figure, title in CURVES.items():
                power = fit_exponent(rows, figure)
                print(f"{title} grows with {name} to the power of {power:.2f}")
        if out is not None:
            _write(out.with_suffix(".json"), report)
            plot_scaling(report).savefig(out.with_suffix(".png"), dpi=100)
        return
    peer = importlib.util.find_spec("torchvision") is not None
    parts = (only,) if only else ("op", "tower")
    unfinished = out and out.with_suffix(".jsonl")
    settings = {"repeats": repeats, "gpu": gpu, "seconds": 60 * minutes, "unfinished": unfinished}
    report = compare(workloads, backends, peer, parts, **settings, progress=progress)
    print(markdown(report))
    if out is not None:
        _write(out.with_suffix(".json"), report)
        out.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
        if not report["missing"]:
            unfinished.unlink(missing_ok=True)
    raise typer.Exit(bool(report["missing"]))


def _write(path, report):
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
