"""`keras-dyhead convert`."""

from pathlib import Path
from typing import Annotated

import typer

from keras_dyhead.cli.console import Terminal, app, quiet_tensorflow
from keras_dyhead.cli.options import Overwrite, check_outputs, fetch_published
from keras_dyhead.printable import counted


@app.command()
def convert(
    name: Annotated[
        str, typer.Argument(help="Name of a published model. `list` prints all names.")
    ],
    file: Annotated[
        Path | None,
        typer.Argument(
            help="A checkpoint of this model: your own, or a copy of the published file. By "
            "default, the published file is downloaded.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Argument(help="The .keras file to write.", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn a published PyTorch checkpoint into a Keras model.

    The published file is downloaded once into Keras' cache and verified. Your own checkpoint of one
    of these models may have any number of classes.

    Reading a .pth file requires PyTorch (`pip install '.[convert]'` in a clone). The .keras file
    does not. It contains weights, preprocessing and decoding, and gives the detections of the
    original.

    **Examples**

    keras-dyhead convert list

    keras-dyhead convert atss_r50_fpn_dyhead_1x_coco atss.keras

    keras-dyhead convert atss_r50_fpn_dyhead_1x_coco work_dirs/mine/epoch_12.pth mine.keras
    """
    terminal = Terminal()
    with terminal.status("starting TensorFlow"), quiet_tensorflow():
        from keras_dyhead import checkpoints
        from keras_dyhead.checkpoints.durable import save_model
    if name == "list":
        for key, record in checkpoints.PUBLISHED.items():
            terminal.print(f"{key:<42}{record.ap:>5} AP\n  {record.source}")
        return
    if file is not None and out is None and file.suffix == ".keras":
        file, out = None, file
    if out is None:
        raise typer.BadParameter(
            "Give NAME and OUT, or NAME, FILE and OUT, or `list` alone. OUT ends in .keras."
        )
    if out.suffix != ".keras":
        raise ValueError(f"OUT must end in .keras. Received: {out}")
    check_outputs([out], [file], overwrite)
    if file is None:
        fetch_published(name, terminal)
    with terminal.status(f"reading {file or name}"):
        model = checkpoints.load_checkpoint(name, file)
        out.parent.mkdir(parents=True, exist_ok=True)
        save_model(model, out)
    record = (checkpoints.PUBLISHED | checkpoints.COMPOSED)[name]
    published = f", published with {record.ap} AP on COCO val2017" if file is None else ""
    terminal.print(
        f"{out}: {record.detector}, {counted(model.num_classes, 'class')}, "
        f"{model.count_params():,} parameters{published}"
    )
