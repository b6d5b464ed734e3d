"""The command line: `keras-dyhead COMMAND`, or `python -m keras_dyhead.cli COMMAND`."""

from keras_dyhead.cli import (  # noqa: F401 (importing a command adds it to the app)
    convert,
    evaluate,
    export,
    input,
    predict,
    pseudo_label,
    recipes,
    training,
    visualize,
)
from keras_dyhead.cli.console import app

__all__ = ["app"]
