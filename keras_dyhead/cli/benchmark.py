"""`keras-dyhead benchmark`."""

import importlib.util
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from keras_dyhead.cli.console import app, print_error, quiet_tensorflow


@app.command()
def benchmark(
    backend: Annotated[
        str, typer.Option(help="Keras backend: tensorflow, jax or torch.")
    ] = "tensorflow",
    size: Annotated[
        str, typer.Option(metavar="SIDE|HEIGHTxWIDTH", help="Size of the image in pixels.")
    ] = "512",
    blocks: Annotated[int, typer.Option(help="Blocks of the tower.")] = 6,
    batch: Annotated[int, typer.Option(help="Images.")] = 1,
    channels: Annotated[int, typer.Option(help="Channels of every map.")] = 256,
    peer: Annotated[
        str | None,
        typer.Option(help="torchvision, or none.  [torchvision where it is installed]"),
    ] = None,
    only: Annotated[str | None, typer.Option(help="op or tower.  [both]")] = None,
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
    """Times the deformable convolution and the DyHead tower beside torchvision's, on the CPU.

    Every implementation runs in a process of its own, so that the time to its first result and
    its peak memory are its own; all compute the same from the same weights, which is checked. Let
    nothing else run.

    **Examples**

    keras-dyhead benchmark --out benchmarks/sampling

    keras-dyhead benchmark --size 800x1333 --batch 2 --only tower --repeats 1

    keras-dyhead benchmark --scaling --out docs/scaling
    """
    console = Console()
    with quiet_tensorflow():
        from keras_dyhead import benchmark as measuring

    if peer is None:
        peer = "torchvision" if importlib.util.find_spec("torchvision") else "none"
    try:
        height, _, width = size.partition("x")
        if not (height.isdecimal() and (width or height).isdecimal()):
            raise ValueError(f"--size must be SIDE or HEIGHTxWIDTH, such as 512. Received: {size}")
        if only not in (None, "op", "tower"):
            raise ValueError(f"--only must be op or tower. Received: {only}")
        if peer == "torchvision" and not importlib.util.find_spec("torchvision"):
            raise ValueError("--peer torchvision: install it with pip install keras-dyhead[bench]")
        workload = measuring.Workload(int(height), int(width or height), blocks, batch, channels)
        with console.status("measuring") as status:

            def progress(what):
                status.update(f"measuring {what}")

            if scaling:
                report = measuring.measure_scaling(workload, backend, repeats, progress=progress)
            else:
                parts = (only,) if only else ("op", "tower")
                report = measuring.compare(workload, backend, peer, repeats, progress, parts)
    except (ValueError, RuntimeError) as error:
        print_error(error)
        raise typer.Exit(2) from None
    if scaling:
        for name, rows in report["series"].items():
            for figure, title in measuring.SCALING_FIGURES.items():
                exponent = measuring.fit_exponent(rows, figure)
                console.print(f"{title} grows with {name} to the power of {exponent:.2f}")
    else:
        console.print(measuring.markdown(report), soft_wrap=True, highlight=False, markup=False)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        if scaling:
            measuring.plot_scaling(report).savefig(out.with_suffix(".png"), dpi=100)
        else:
            out.with_suffix(".md").write_text(measuring.markdown(report), encoding="utf-8")
        console.print(f"written: {out}.*", soft_wrap=True)
