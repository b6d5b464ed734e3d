"""Options that several commands share, and what the commands make of them."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import track

from keras_dyhead.cli.console import Terminal, quiet_tensorflow
from keras_dyhead.needs import need_writable
from keras_dyhead.printable import counted
from keras_dyhead.recipes import load_recipe

if TYPE_CHECKING:  # TensorFlow takes seconds to import, so only the commands import it
    from keras_dyhead.inference import TestTimeAugmentation, Tiles
    from keras_dyhead.training import TrainingSettings


def existing_file(text: str):
    """Returns an option that takes an existing file."""
    return typer.Option(exists=True, dir_okay=False, help=text)


def existing_folder(text: str):
    """Returns an option that takes an existing folder."""
    return typer.Option(exists=True, file_okay=False, help=text)


Model = Annotated[
    str,
    typer.Option(
        metavar="FILE|NAME",
        help="A .keras file from `train` or `convert`, or the name of a published model (see "
        "`convert list`), which is downloaded once.",
    ),
]
ClassNames = Annotated[
    Path | None,
    existing_file("Text file with one class name per line, for models that store no names."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME=VALUE",
        show_default=False,
        help="More training settings, such as `augmentation.horizontal_flip=0`. `train "
        "--print-config` shows all of them.",
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Use the settings of a published training run (see `keras-dyhead recipes`). Options "
        "and NAME=VALUE settings override them.",
    ),
]
Annotations = Annotated[Path, existing_file("COCO JSON file with the annotations of the images.")]
ImageSize = Annotated[
    int | None,
    typer.Option(
        min=32, help="Side in px of the square that images are resized to fit. Default: 512."
    ),
]
ScoreThreshold = Annotated[
    float, typer.Option(min=0, max=1, help="Leave out detections with a lower confidence.")
]
OnError = Annotated[
    Literal["raise", "skip"],
    typer.Option(help="Stop at broken input (raise), or leave it out (skip)."),
]
Tta = Annotated[
    bool,
    typer.Option(
        "--tta",
        help="Test-time augmentation: detect at several scales, with and without a horizontal "
        "flip, and merge the detections. With the default scales, this is ten times the work.",
    ),
]
TtaScales = Annotated[
    str | None,
    typer.Option(
        metavar="FACTORS", help="Scales for --tta, such as 0.5,1,1.5. Default: 0.5,0.75,1,1.25,1.5."
    ),
]
TtaMerge = Annotated[
    Literal["vote", "nms"] | None,
    typer.Option(
        help="How --tta merges overlapping boxes of a class: average them by confidence (vote), or "
        "keep the best (nms). Default: vote."
    ),
]

Tile = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="PIXELS",
        help="Cut larger images into square tiles of this size, and detect objects in each.",
    ),
]
Overlap = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=0.99,
        help="Fraction of its side that a tile shares with the next. Default: 0.2.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]


def given_options(context: typer.Context, names: Iterable[str]) -> dict[str, Any]:
    """Returns those of the named options that were given on the command line."""
    return {
        name: context.params[name]
        for name in names
        if context.get_parameter_source(name).name != "DEFAULT"
    }


def training_settings(
    recipe: str | None, overrides: list[str] | None, given: dict[str, Any]
) -> "TrainingSettings":
    """Returns the settings of a recipe, overridden by NAME=VALUE settings and by options."""
    from keras_dyhead.training import TrainingSettings
    from keras_dyhead.training.overrides import merge_settings, parse_overrides

    published = {} if recipe is None else load_recipe(recipe).SETTINGS
    parsed = parse_overrides(overrides or [])
    twice = sorted(set(parsed) & set(given))
    if twice:
        raise ValueError(f"Some settings are given twice, as options and as NAME=VALUE: {twice}")
    return TrainingSettings(**merge_settings(published, parsed, given))


@contextlib.contextmanager
def problems_listed_below() -> Iterator[None]:
    """Hides the warnings about a dataset, because the command lists its problems itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def fetch_published(source: str | Path, terminal: Terminal) -> None:
    """Downloads a published model with a progress bar, if `source` is the name of one."""
    with terminal.status("starting TensorFlow"), quiet_tensorflow():
        from keras_dyhead.checkpoints import PUBLISHED, fetch_checkpoint
    if source in PUBLISHED:
        fetch_checkpoint(PUBLISHED[source].source)


def load_detector(
    source: str | Path, class_names: Path | None, terminal: Terminal, hosted: bool = False
):
    """Returns the detector of a file or a name. With `hosted`, it may be a `HostedDetector`."""
    fetch_published(source, terminal)
    with terminal.status(f"loading {source}"):
        from keras_dyhead import checkpoints
        from keras_dyhead.coco.fields import read_lines

        model = checkpoints.load_detector(source, hosted)
    if class_names is not None:
        names = read_lines(class_names)
        if len(names) != model.num_classes:
            classes, received = counted(model.num_classes, "class"), counted(len(names), "name")
            raise ValueError(f"The model has {classes}. Received: {received}")
        model.class_names = tuple(names)
    return model


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Returns the given files, and the JPEG and PNG files of the given folders, sorted by name."""
    from keras_dyhead.coco.image_files import SUFFIXES

    files = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        files += [f for f in inside if not path.is_dir() or f.suffix.lower() in SUFFIXES]
    if not files:
        raise ValueError(f"There is no JPEG or PNG file in {', '.join(map(str, paths))}.")
    return files


def several_views(
    tta: bool, tta_scales: str | None, tta_merge: str | None
) -> "TestTimeAugmentation | None":
    """Returns the test-time augmentation that the options ask for. Scales alone enable it."""
    from keras_dyhead.inference import TestTimeAugmentation

    merge = {} if tta_merge is None else {"merge": tta_merge}
    if tta_scales is None:
        if merge and not tta:
            raise ValueError(f"--tta-merge needs --tta. Received: --tta-merge {tta_merge}")
        return TestTimeAugmentation(**merge) if tta else None
    try:
        scales = [float(factor) for factor in tta_scales.split(",")]
    except ValueError:
        raise ValueError(
            f"--tta-scales must be numbers separated by commas. Received: {tta_scales}"
        ) from None
    return TestTimeAugmentation(scales, **merge)


def tiles(tile: int | None, overlap: float | None) -> "Tiles | None":
    """Returns the tiles that --tile and --overlap ask for."""
    from keras_dyhead.inference import Tiles

    if tile is None:
        if overlap is not None:
            raise ValueError(f"--overlap needs --tile. Received: --overlap {overlap}")
        return None
    return Tiles(tile) if overlap is None else Tiles(tile, overlap)


def described_views(views, cut) -> dict[str, Any]:
    """Returns test-time augmentation and tiles as a result file records them."""
    return {
        "tta": None if views is None else dataclasses.asdict(views),
        "tiles": None if cut is None else {"size": cut.size, "overlap": cut.overlap},
    }


def progress_bar(text: str, terminal: Terminal) -> Callable[[Sequence], Iterator]:
    """Returns a function that shows a progress bar while it iterates over a sequence."""
    return lambda sequence: track(sequence, text, console=terminal, transient=True)


def check_outputs(
    outputs: Iterable[Path | None], inputs: Iterable[Path | None], overwrite: bool
) -> None:
    """Raises an error if a file cannot be written, is to be read, too, or written twice.

    Without `overwrite`, it must not exist.
    """
    taken = {path.resolve() for path in filter(None, inputs)}
    for path in filter(None, outputs):
        if path.resolve() in taken:
            raise ValueError(f"{path} would replace an input or output. Choose another output.")
        taken.add(path.resolve())
        need_writable(path)
        if path.exists() and not overwrite:
            raise ValueError(
                f"{path} already exists. Use --overwrite to replace it, or choose another."
            )
