"""Compares the outputs of a notebook with what it promises."""

import base64
import io
import re

import numpy as np
from PIL import Image


def outputs_of(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def text_of(notebook):
    """Returns all text that cells print or show."""
    return "".join(
        output["text"]
        if output.output_type == "stream"
        else output["data"].get("text/plain", "") + "\n"
        for output in outputs_of(notebook)
        if output.output_type != "error"
    )


def pictures_of(notebook):
    """Returns the images among the outputs as arrays `(H, W, 3)`."""
    encoded = (o["data"].get("image/png") for o in outputs_of(notebook) if "data" in o)
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))
        for png in encoded
        if png is not None
    ]


def check_promises(notebook, run):
    """Raises an `AssertionError` for a missing image or line."""
    pictures = pictures_of(notebook)
    assert len(pictures) == run.pictures, f"{len(pictures)} pictures, not {run.pictures}"
    for picture in pictures:
        assert min(picture.shape[:2]) >= 72 and picture.std() > 5, picture.shape
    text, start = text_of(notebook), 0
    for pattern in run.prints:
        match = re.compile(pattern).search(text, start)
        assert match, f"no {pattern!r} in {text[start:]!r}"
        start = match.end()
