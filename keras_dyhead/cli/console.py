"""The command line app, and how its commands print."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from keras_dyhead.printable import counted, printable
from keras_dyhead.version import __version__


class Commands(TyperGroup):
    """Reports an error of the input or of a file as one message and exits with code 2."""

    def invoke(self, ctx):
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:  # the reader of the output has enough
            raise
        except (ValueError, ImportError, OSError) as error:
            print_error(error)
        except Exception as error:  # TensorFlow's checks, such as those of images
            _, check, fault = str(error).partition("assertion failed: [")
            if not check:
                raise
            print_error(fault.splitlines()[0].rstrip("]").replace("] [", ""))
        raise typer.Exit(2)


app = typer.Typer(
    name="keras-dyhead",
    cls=Commands,
    epilog="Start with `keras-dyhead demo`: it needs no data and no download.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

FIGURES = {
    "AP": "mean over IoU 0.50 to 0.95",
    "AP50": "IoU 0.50",
    "AP75": "IoU 0.75",
    "APs": "small objects, up to {1:g}² px",
    "APm": "medium objects",
    "APl": "large objects, from {2:g}² px",
    "AR1": "recall, 1 detection per image",
    "AR10": "recall, 10 detections",
    "AR100": "recall, {0} detections",
    "ARs": "recall, small objects",
    "ARm": "recall, medium objects",
    "ARl": "recall, large objects",
}


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"keras-dyhead {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Train and run object detectors with Dynamic Head (DyHead, CVPR 2021) in Keras 3."""


class Terminal(Console):
    """Prints text literally: brackets and colons in names and paths are not markup.

    Styles are separate arguments: `terminal.print("done", style="green")`. Lines are not wrapped.
    Characters are escaped that would move the cursor or change colors, or that the encoding lacks.

    Args:
        stderr: Whether to print to standard error. Defaults to `False`.
    """

    def __init__(self, stderr: bool = False):
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)
        with contextlib.suppress(AttributeError):  # a stream need not be text in a file
            self.file.reconfigure(errors="backslashreplace")

    def render_str(self, text: str, **options) -> Text:
        """Escapes every printed string."""
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)

    def status(self, status: str, **options) -> Status:
        return super().status(Text(printable(status)), **options)

    def warn(self, message: object) -> None:
        self.print(str(message), style="yellow")


def print_figures(
    figures: Mapping[str, float | None],
    images: int,
    terminal: Terminal,
    size_limits: tuple[float, float] = (32, 96),
) -> None:
    """Prints the twelve COCO metrics as a table."""
    table = Table(title=f"COCO metrics on {counted(images, 'image')}")
    table.add_column("metric", style="bold")
    table.add_column("value", justify="right")
    table.add_column("meaning")
    for (name, value), meaning in zip(figures.items(), FIGURES.values(), strict=True):
        meaning = meaning.format(name[2:], *size_limits)
        table.add_row(name, "-" if value is None or value < 0 else f"{value:.3f}", meaning)
    terminal.print(table, soft_wrap=False)


def write_json(path: Path, content: object, terminal: Terminal) -> None:
    """Writes a JSON file, creates its folder if needed, and prints its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    terminal.print(f"written: {path}")


def print_error(error: object) -> None:
    """Prints the error message of a failed command, with options as the command line takes them."""
    message = str(error).replace("`on_error='skip'`", "--on-error skip")
    Terminal(stderr=True).print(Text("Error: ", "bold red"), message, sep="")


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Imports TensorFlow, if installed, and hides what it logs before its log level applies."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "tensorflow" not in sys.modules and os.environ["TF_CPP_MIN_LOG_LEVEL"] != "0":
        sys.stderr.flush()
        kept, silence = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 2)
        try:
            with contextlib.suppress(ImportError):
                import tensorflow  # noqa: F401
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(silence)
    yield
