"""`keras-dyhead convert`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_dyhead.cli.console import Terminal, app, quiet_tensorflow
from keras_dyhead.cli.options import check_new, input_errors


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

    Reading a .pth file needs PyTorch (`pip install '.[convert]'` in a clone); the .keras file does
    not. It holds the weights, the preprocessing and the decoding, and detects what the original
    does.

    **Examples**

    keras-dyhead convert list

    keras-dyhead convert dyhead_r50_atss_fpn_1x dyhead_r50_atss_fpn_1x.pth atss.keras
    """
    terminal = Terminal()
    with input_errors(), terminal.status("starting TensorFlow"), quiet_tensorflow():
        from keras_dyhead import checkpoints
        from keras_dyhead.training.durable import save_model
    if name == "list":
        for key, record in checkpoints.PUBLISHED.items():
            terminal.print(f"{key:<42}{record.ap:>5} AP\n  {record.source}")
        return
    if file is None or out is None:
        raise typer.BadParameter("NAME, FILE and OUT are needed, or `list` alone.")
    with input_errors(), terminal.status(f"reading {file}"):
        if out.suffix != ".keras":
            raise ValueError(f"OUT must end in .keras. Received: {out}")
        check_new(out, overwrite)
        model = checkpoints.load_checkpoint(name, file)
        out.parent.mkdir(parents=True, exist_ok=True)
        save_model(model, out)
    record = (checkpoints.PUBLISHED | checkpoints.COMPOSED)[name]
    published = "" if record.ap is None else f", published with {record.ap} AP on COCO val2017"
    terminal.print(
        f"{out}: {record.detector}, {model.count_params():,} parameters{published}", soft_wrap=True
    )
