"""Files and folders that are on the disk whole or not at all, whatever ends the process."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import keras

from keras_dyhead.checkpoints.fetch import sha256_of

SUMS = "sha256.json"
"""The file of a folder that says what the others must contain."""


def replace_file(path: Path, text: str) -> None:
    """Writes a text file in one step: after a crash it has the old content or the new one."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(text)
    _to_disk(unfinished)
    unfinished.replace(path)
    _to_disk(path.parent)


def save_model(model: keras.Model, path: Path) -> None:
    """Writes a `.keras` file in one step: where that fails, there is the old file or none."""
    unfinished = path.with_name(f"unfinished-{path.name}")  # Keras asks for the suffix
    try:
        model.save(unfinished)
        _to_disk(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    _to_disk(path.parent)


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Creates a folder that appears under its name complete, with the checksums of its files.

    `write` writes the files, into the folder it receives; where it fails, all of them are deleted.
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
    """Checks that a folder is as `write_folder` left it.

    Raises:
        OSError: If a file is missing or cannot be read.
        ValueError: If a file has another content.
    """
    for name, expected in json.loads((path / SUMS).read_text()).items():
        if sha256_of(path / name) != expected:
            raise ValueError(f"{name} is not what was written: its checksum is another")


def _to_disk(path: Path) -> None:
    """Has the system write out a file or a folder, not just remember it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
