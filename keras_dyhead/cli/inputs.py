"""What several commands are given: a model file, class names, images, annotations."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from keras_dyhead.cli.console import print_error, quiet_tensorflow

Model = Annotated[
    Path,
    typer.Option(exists=True, dir_okay=False, help="A .keras file, of `train` or `convert`."),
]
ClassNames = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="Text file with the name of each label, one a line, for models that know none.",
    ),
]
Annotations = Annotated[
    Path, typer.Option(exists=True, dir_okay=False, help="Their COCO JSON file.")
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        min=32, help="Side in px of the square that images are fitted into; by default 512."
    ),
]
OnError = Annotated[
    str,
    typer.Option(
        metavar="raise|skip", help="Broken images or annotations: stop, or leave them out."
    ),
]
OnErrorOfImages = Annotated[
    str, typer.Option(metavar="raise|skip", help="Broken images: stop, or leave them out.")
]


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
    """Input errors are one message and exit code 2."""
    try:
        yield
    except (ValueError, ImportError) as error:
        print_error(error)
        raise typer.Exit(2) from None


def load_detector(path: Path, class_names: Path | None, console: Console):
    """Returns the detector in a file and the names of its classes, where anyone knows them."""
    with console.status(f"loading {path}"), quiet_tensorflow():
        import keras

        from keras_dyhead.detectors import Detector

        try:
            model = keras.saving.load_model(path, compile=False)
        except Exception as error:  # what a damaged file raises differs from version to version
            raise ValueError(f"{path} is no model that Keras can load: {error}") from None
    if not isinstance(model, Detector):
        raise ValueError(f"{path} holds no keras_dyhead detector, but a {type(model).__name__}.")
    names = model.class_names
    if class_names is not None:
        names = class_names.read_text(encoding="utf-8").splitlines()
    if names is not None and len(names) != model.num_classes:
        raise ValueError(f"The model has {model.num_classes} classes. Received: {len(names)} names")
    return model, None if names is None else list(names)


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The given files, and the JPEG and PNG files of the given folders in the order of names."""
    from keras_dyhead.inference import SUFFIXES

    files = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        files += [f for f in inside if not path.is_dir() or f.suffix.lower() in SUFFIXES]
    return files
