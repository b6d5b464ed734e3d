"""Writes files and folders atomically, so that a crash leaves no partial ones."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import keras

from keras_dyhead.checkpoints.fetch import sha256_of

SUMS = "sha256.json"
"""File with the checksums of the other files in a folder."""


def replace_file(path: Path, text: str) -> None:
    """Writes a text file atomically. After a crash, it has either the old or the new content."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(text)
    _to_disk(unfinished)
    unfinished.replace(path)
    _to_disk(path.parent)


def save_model(model: keras.Model, path: Path) -> None:
    """Writes a `.keras` file atomically. If that fails, an existing file is unchanged."""
    unfinished = path.with_name(f"unfinished-{path.name}")  # Keras requires the suffix
    try:
        model.save(unfinished)
        _to_disk(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    _to_disk(path.parent)


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Creates a folder atomically, with the checksums of its files.

    `write` writes the files into the folder that it receives. If it fails, they are deleted.
    """
    unfinished = path.with_name("unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        write(unfinished)
        sums = {file.name: sha256_of(file) for file in sorted(unfinished.iterdir())}
        (unfinished / SUMS).write_text(json.dumps(sums, indent=1))
        for file in unfinished.iterdir():
            _to_disk(file)
        _to_disk(unfinished)
        unfinished.rename(path)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _to_disk(path.parent)


def check_folder_content(path: Path) -> None:
    """Checks that the files of a folder are as `write_folder` wrote them.

    Raises:
        OSError: If a file is missing or cannot be read.
        ValueError: If the content of a file has changed.
    """
    sums = json.loads((path / SUMS).read_text())
    if not isinstance(sums, dict) or not sums:
        raise ValueError(f"{SUMS} lists no files")
    for name, expected in sums.items():
        if sha256_of(path / name) != expected:
            raise ValueError(f"the checksum of {name} differs from the one written")


def _to_disk(path: Path) -> None:
    """Flushes a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
