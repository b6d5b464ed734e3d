"""`keras-dyhead export`."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from keras_dyhead.cli.console import Terminal, app, quiet_tensorflow
from keras_dyhead.cli.options import load_detector
from keras_dyhead.needs import need_tensorflow


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="FILE|NAME",
            help="A .keras file from `train` or `convert`, or the name of a published model.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="File to write, or folder for saved_model. It must not exist.")
    ],
    format: Annotated[
        Literal["saved_model", "onnx", "litert"], typer.Option(help="Format to export to.")
    ] = "saved_model",
    image_size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="HEIGHT WIDTH",
            help="Size that images are resized to fit, for models without a fixed size, such as "
            "published ones. With litert, these need it.",
        ),
    ] = None,
) -> None:
    """Export a model to a file that runs without Keras and this package.

    The file includes preprocessing and decoding: it takes RGB images of any size and returns boxes
    in their pixels. onnx requires tf2onnx (`pip install '.[export]'` in a clone). Detectors of
    KerasCV and KerasHub can be exported too.

    **Examples**

    keras-dyhead export atss.keras --out saved_model

    keras-dyhead export atss.keras --format onnx --out atss.onnx

    keras-dyhead export atss.keras --format litert --out atss.tflite

    keras-dyhead export dyhead_r50_atss_fpn_1x --image-size 640 640 --out saved_model
    """
    terminal = Terminal()
    if out.exists():
        raise ValueError(f"{out} already exists. Choose another name or delete it.")
    if "keras" not in sys.modules:  # only TensorFlow can export
        os.environ["KERAS_BACKEND"] = "tensorflow"
    with terminal.status("starting TensorFlow"), quiet_tensorflow():
        need_tensorflow("keras-dyhead export")
    loaded = load_detector(model, None, terminal, hosted=True)
    from keras_dyhead import export as exporters
    from keras_dyhead.integrations.hosted import HostedDetector

    loaded = loaded.model if isinstance(loaded, HostedDetector) else loaded
    with terminal.status(f"converting to {format} (takes minutes for large models)"):
        getattr(exporters, f"export_{format}")(loaded, out, image_size)
    terminal.print(f"written: {out}")
