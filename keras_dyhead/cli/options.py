"""What several commands are given: a model file, class names, images, annotations, views."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import track

from keras_dyhead.cli.console import Terminal, print_error, quiet_tensorflow
from keras_dyhead.recipes import load_recipe

if TYPE_CHECKING:  # TensorFlow takes seconds to import: only the commands themselves do
    from keras_dyhead.inference import TestTimeAugmentation, Tiles
    from keras_dyhead.training import TrainingSettings


def existing_file(text: str):
    """An option that takes a file which exists."""
    return typer.Option(exists=True, dir_okay=False, help=text)


def existing_folder(text: str):
    """An option that takes a folder which exists."""
    return typer.Option(exists=True, file_okay=False, help=text)


Model = Annotated[
    str,
    typer.Option(
        metavar="FILE|NAME",
        help="A .keras file, of `train` or `convert`; or a published model by the name that "
        "`convert list` shows, which is fetched once.",
    ),
]
ClassNames = Annotated[
    Path | None,
    existing_file("Text file with the name of each label, one a line, for models that know none."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME=VALUE",
        show_default=False,
        help="Further settings of a training, such as `augmentation.horizontal_flip=0`; `train "
        "--print-config` shows all.",
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A published training, see `keras-dyhead recipes`. What is given beside it wins.",
    ),
]
Annotations = Annotated[Path, existing_file("Their COCO JSON file.")]
ImageSize = Annotated[
    int | None,
    typer.Option(
        min=32, help="Side in px of the square that images are fitted into; by default 512."
    ),
]
OnError = Annotated[
    Literal["raise", "skip"],
    typer.Option(help="Broken images or annotations: stop, or leave them out."),
]
Tta = Annotated[
    bool,
    typer.Option(
        "--tta",
        help="Test-time augmentation: detect at several scales, also mirrored, and merge. Ten "
        "times the work of one view by default.",
    ),
]
TtaScales = Annotated[
    str | None,
    typer.Option(
        metavar="FACTORS",
        help="Scales of --tta, such as 0.5,1,1.5; by default 0.5,0.75,1,1.25,1.5.",
    ),
]
TtaMerge = Annotated[
    Literal["vote", "nms"],
    typer.Option(
        help="Make of overlapping boxes of a class their mean by confidence, or keep the best.",
    ),
]

Tile = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="PIXELS",
        help="Cut larger images into tiles with sides of so many pixels, and detect in each.",
    ),
]
Overlap = Annotated[
    float, typer.Option(min=0, max=0.99, help="Part of its side that a tile shares with the next.")
]


def given_options(context: typer.Context, names: Iterable[str]) -> dict[str, Any]:
    """The options of these names that the command was given, unlike those left at their default."""
    return {
        name: context.params[name]
        for name in names
        if context.get_parameter_source(name).name != "DEFAULT"
    }


def training_settings(
    recipe: str | None, overrides: list[str] | None, given: dict[str, Any]
) -> "TrainingSettings":
    """The settings of a recipe, over which those by name win, over which the options given win."""
    from keras_dyhead import training

    published = {} if recipe is None else load_recipe(recipe).SETTINGS
    parsed = training.parse_overrides(overrides or [])
    twice = sorted(set(parsed) & set(given))
    if twice:
        raise ValueError(f"These settings are given twice, as option and by name: {twice}")
    return training.TrainingSettings(**training.merge_settings(published, parsed, given))


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
    """Input errors are one message and exit code 2."""
    try:
        yield
    except (ValueError, ImportError, ConnectionError) as error:
        print_error(error)
        raise typer.Exit(2) from None


def fetch_published(source: str | Path, terminal: Terminal) -> None:
    """Fetches the file of a published model, where this is the name of one, and shows how far."""
    with terminal.status("starting TensorFlow"), quiet_tensorflow():
        from keras_dyhead.checkpoints import PUBLISHED, fetch_checkpoint
    if source in PUBLISHED:
        fetch_checkpoint(PUBLISHED[source].source)


def load_detector(
    source: str | Path, class_names: Path | None, terminal: Terminal, hosted: bool = False
):
    """Returns the detector of a file or a name, and its classes' names, where anyone knows them.

    It may be a `HostedDetector` if `hosted`.
    """
    fetch_published(source, terminal)
    with terminal.status(f"loading {source}"):
        from keras_dyhead import checkpoints
        from keras_dyhead.coco.fields import read_lines

        model = checkpoints.load_detector(source, hosted)
    names = model.class_names
    if class_names is not None:
        names = read_lines(class_names)
    if names is not None and len(names) != model.num_classes:
        raise ValueError(f"The model has {model.num_classes} classes. Received: {len(names)} names")
    if names is not None:
        model.class_names = tuple(names)
    return model, None if names is None else list(names)


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The given files, and the JPEG and PNG files of the given folders in the order of names."""
    from keras_dyhead.coco.image_files import SUFFIXES

    files = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        files += [f for f in inside if not path.is_dir() or f.suffix.lower() in SUFFIXES]
    return files


def several_views(
    tta: bool, tta_scales: str | None, tta_merge: str
) -> "TestTimeAugmentation | None":
    """What the three options of test-time augmentation ask for; scales alone are enough to ask."""
    from keras_dyhead.inference import TestTimeAugmentation

    if tta_scales is None:
        return TestTimeAugmentation(merge=tta_merge) if tta else None
    try:
        scales = [float(factor) for factor in tta_scales.split(",")]
    except ValueError:
        raise ValueError(
            f"--tta-scales must be numbers with commas between. Received: {tta_scales}"
        ) from None
    return TestTimeAugmentation(scales, merge=tta_merge)


def tiles(tile: int | None, overlap: float) -> "Tiles | None":
    """What --tile and --overlap ask for."""
    from keras_dyhead.inference import Tiles

    return None if tile is None else Tiles(tile, overlap)


def progress_bar(text: str, terminal: Terminal) -> Callable[[Sequence], Iterator]:
    """Wraps a sequence so that a bar shows how far it has been gone through."""
    return lambda sequence: track(sequence, text, console=terminal, transient=True)


def check_new(path: Path, overwrite: bool) -> None:
    """Refuses to replace a file without --overwrite."""
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists: replace it with --overwrite, or choose another.")
