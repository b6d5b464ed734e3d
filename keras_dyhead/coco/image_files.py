"""Reading image files, and finding out beforehand which of them cannot be read."""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png")
_MANY = 1000  # files whose decoding is worth a progress bar and a record
_EXIF_ORIENTATION = 0x0112


def read_image(path: tf.Tensor) -> tf.Tensor:
    """Reads a JPEG or PNG file (grey, palette, RGBA: anything) as RGB, uint8 `(height, width, 3)`.

    An EXIF orientation is not applied: COCO boxes are drawn on the pixels as they are stored.
    """
    image = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
    return tf.ensure_shape(image, (None, None, 3))


def read_or_empty(path: tf.Tensor) -> tf.Tensor:
    """Reads a file as `read_image` does, or gives an image `(0, 0, 3)` if that fails."""
    image = tf.data.Dataset.from_tensors(path).map(read_image).ignore_errors()
    empty = tf.data.Dataset.from_tensors(tf.zeros((0, 0, 3), "uint8"))
    return image.concatenate(empty).take(1).get_single_element()


def read_rgb(path: str | os.PathLike) -> np.ndarray:
    """Reads a JPEG or PNG file as `(H, W, 3)` uint8; an EXIF orientation is not applied.

    Raises:
        ValueError: If it cannot be read; the message names the file.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        return read_image(tf.constant(os.fspath(path))).numpy()
    except tf.errors.OpError as error:
        raise ValueError(f"{path} is no readable JPEG or PNG image: {_reason(error)}") from None


def find_broken_images(
    paths: Sequence[Path], sizes: Sequence[tuple[int, int]], decode: bool = True
) -> list[str | None]:
    """Says what is wrong with each image file, or `None`, by decoding all on all processor cores.

    Decoding a thousand files or more shows a progress bar, and what was found is kept in the
    folder `keras_dyhead/verified` of Keras' own (`KERAS_HOME`, or `~/.keras`): as long as names,
    sizes and times of the files are the same, they are not decoded again. Without `decode`, which
    finds truncated files, they only have to exist.
    """
    if not decode:
        return [None if path.is_file() else _missing(path) for path in paths]
    many = len(paths) >= _MANY
    record = _record_of(paths, sizes) if many else None
    if record is not None and record.is_file():
        found = json.loads(record.read_text(encoding="utf-8"))
        return [found.get(str(row)) for row in range(len(paths))]
    progress = keras.utils.Progbar(len(paths), verbose=int(many), unit_name="image")
    faults = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for fault in pool.map(_find_fault, paths, sizes):
            faults.append(fault)
            progress.add(1)
    if record is not None:
        found = {row: fault for row, fault in enumerate(faults) if fault}
        with contextlib.suppress(OSError):  # a home that cannot be written to costs time only
            record.parent.mkdir(parents=True, exist_ok=True)
            unfinished = record.with_suffix(f".{os.getpid()}")
            unfinished.write_text(json.dumps(found), encoding="utf-8")
            unfinished.replace(record)
    return faults


def _record_of(paths: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> Path:
    """The file that keeps what was found in these files as they are now."""
    digest = hashlib.sha256()
    for path, size in zip(paths, sizes, strict=True):
        try:
            state = path.stat()
            line = f"{path.absolute()} {size} {state.st_size} {state.st_mtime_ns}\n"
        except OSError:
            line = f"{path.absolute()} {size} missing\n"
        digest.update(line.encode())
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    return home / "keras_dyhead" / "verified" / f"{digest.hexdigest()}.json"


def _missing(path: Path) -> str:
    return f"no such file: {path}"


def _find_fault(path: Path, size: tuple[int, int]) -> str | None:
    if not path.is_file():
        return _missing(path)
    try:
        with Image.open(path) as header:
            stored = header.size[::-1]
            orientation = header.getexif().get(_EXIF_ORIENTATION, 1) if stored != size else 1
        with tf.device("CPU:0"):  # device scopes are per thread
            read_image(tf.constant(str(path)))
    except tf.errors.OpError as error:
        return f"the file cannot be decoded: {_reason(error)}"
    except Exception as error:  # Pillow's readers raise many kinds of error on a broken header
        return f"not a readable image file: {error}"
    if stored == size:
        return None
    hint = f"; its EXIF orientation {orientation} is not applied" if orientation != 1 else ""
    return (
        f"the file is {stored[1]}x{stored[0]} pixels (width x height), "
        f"the annotations say {size[1]}x{size[0]}{hint}"
    )


def _reason(error: tf.errors.OpError) -> str:
    return error.message.split("}} ")[-1].splitlines()[0]
