"""Checks for optional dependencies and places to write to."""

import importlib.util
import os
from pathlib import Path


def has_tensorflow() -> bool:
    """Whether TensorFlow is installed."""
    return importlib.util.find_spec("tensorflow") is not None


def need_tensorflow(part: str) -> None:
    """Raises an `ImportError` if TensorFlow cannot be imported. `part` is what needs it."""
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{part} needs TensorFlow, even if Keras uses another backend: pip install tensorflow"
        ) from error


def need_writable(path: str | os.PathLike, folder: bool = False) -> None:
    """Raises a `ValueError` if a file, or a `folder`, cannot be written at a path."""
    path = Path(path)
    place = next(place for place in (path, *path.absolute().parents) if place.exists())
    kind = "file" if place is path and not folder else "folder"
    if place.is_dir() != (kind == "folder") or not os.access(place, os.W_OK):
        raise ValueError(f"{path} cannot be written: {place} is not a writable {kind}.")
