"""Reads image files and finds unreadable ones in advance."""

import contextlib
import functools
import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import keras
import numpy as np
from PIL import Image

from keras_dyhead.checkpoints.fetch import keras_home

SUFFIXES = (".jpg", ".jpeg", ".png")
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")  # the formats that TensorFlow decodes
_MANY = 1000  # from this many files on, decoding shows a progress bar and keeps a record
_EXIF_ORIENTATION = 0x0112


def read_rgb(path: str | os.PathLike) -> np.ndarray:
    """Reads a JPEG or PNG file as `(H, W, 3)` uint8. EXIF orientations are not applied.

    TensorFlow decodes if it is the Keras backend, and always in `load_coco`. Otherwise Pillow does.
    Except for CMYK JPEG files, the pixels are the same.

    Raises:
        ValueError: If the file cannot be read. The message names it.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        return _decode(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a readable JPEG or PNG image: {error}") from None


def as_rgb(image) -> np.ndarray:
    """Converts an image to RGB, `(H, W, 3)` uint8.

    Args:
        image: Array `(H, W, 3)`, gray `(H, W)` or `(H, W, 1)`, or RGBA `(H, W, 4)`, with values
            from 0 to 255 of any dtype. Or a Pillow image of any mode.

    Raises:
        ValueError: If the shape is another one, or the values are not clearly from 0 to 255.
    """
    if isinstance(image, Image.Image) and image.mode not in ("RGB", "RGBA", "L", "I", "F"):
        image = _to_rgb(image)
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    is_image = image.ndim == 3 and image.shape[-1] in (1, 3, 4) and 0 not in image.shape
    if not is_image or image.dtype.kind not in "biufc":
        raise ValueError(
            "An image must be RGB (H, W, 3), RGBA (H, W, 4) or gray (H, W). "
            f"Received an array of shape {image.shape}, {image.dtype}"
        )
    if image.dtype != np.uint8:
        lowest, highest = np.min(image), np.max(image)
        fractions = image.dtype.kind == "f" and 0 < highest <= 1
        if image.dtype.kind not in "fiu" or fractions or not (lowest > -0.5 and highest < 255.5):
            raise ValueError(
                "An image must have values from 0 to 255"
                + (": multiply values from 0 to 1 by 255" if fractions else "")
                + f". Received: {image.dtype} from {lowest} to {highest}"
            )
        image = np.round(image).astype("uint8")
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]


def _decode(path: str | os.PathLike) -> np.ndarray:
    """The pixels of a file. Raises a `ValueError` if it cannot be decoded."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        from keras_dyhead.coco.decode_image import read_image

        try:
            with tf.device("CPU:0"):  # device scopes are per thread
                return read_image(tf.constant(os.fspath(path))).numpy()
        except tf.errors.OpError as error:
            message = error.message.split("}} ")[-1].split(" [Op:")[0]
            raise ValueError(message.splitlines()[0]) from None
    try:
        with Image.open(path, formats=_FORMATS) as image:
            return np.array(_to_rgb(image))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts as TensorFlow does: keeps the upper 8 of 16 bits, and drops transparency."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.array(image) >> 8).astype("uint8"))
    elif "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def find_file(folder: Path, name: str) -> Path:
    """The file that a record names, also if other systems or tools wrote the name."""
    # `Path.is_file` raises an error for names too long for the system.
    if os.path.isfile(folder / name):
        return folder / name
    spellings = {name: None}  # in order
    for repair in _REPAIRS:
        spellings |= dict.fromkeys(map(repair, spellings))
    inside = f"{folder.resolve().name}/"  # exporters name files from the folder's parent
    spellings |= dict.fromkeys(spelling.removeprefix(inside) for spelling in spellings)
    paths = (folder / spelling for spelling in spellings)
    return next((path for path in paths if os.path.isfile(path)), folder / name)


def _path_of_uri(name: str) -> str:
    with contextlib.suppress(ValueError):  # such as "file://[a.png"
        return url2pathname(urlsplit(name).path) if name.startswith("file:") else name
    return name


_REPAIRS = (
    lambda name: name.replace("\\", "/"),
    _path_of_uri,
    unquote,
    str.strip,
    lambda name: name.lstrip("/"),
    functools.partial(unicodedata.normalize, "NFC"),
    functools.partial(unicodedata.normalize, "NFD"),
    lambda name: os.path.splitext(name)[0] + os.path.splitext(name)[1].swapcase(),
)


def real_paths(paths: Iterable[Path]) -> list[str]:
    """The paths of files without links and `..`, which are equal for the same file."""
    real = functools.cache(os.path.realpath)  # many files share a folder
    parts = map(os.path.split, paths)
    direct = [os.path.join(real(folder), name) for folder, name in parts]
    return [os.path.realpath(path) if os.path.islink(path) else path for path in direct]


Size = tuple[int | None, int | None]


def inspect_images(
    paths: Sequence[Path], sizes: Sequence[Size], decode: bool = True
) -> list[tuple[Size, str | None]]:
    """Returns the (height, width) of each image file, and what is wrong with it or `None`.

    Files are decoded on all processor cores. Decoding a thousand files or more shows a progress
    bar and keeps the result in the folder `keras_dyhead/verified` of `KERAS_HOME` (`~/.keras`).
    Unless names, sizes or times of the files change, they are not decoded again. Without `decode`,
    files only have to exist, and those without a stated size (`None`) are decoded.
    """
    many = decode and len(paths) >= _MANY
    record = _record_of(paths, sizes) if many else None
    if record is not None:
        with contextlib.suppress(OSError, ValueError):  # no record, or a damaged one
            found = json.loads(record.read_text(encoding="utf-8"))
            found = {int(row): (tuple(size), fault) for row, (size, fault) in found.items()}
            return [found.get(row, (size, None)) for row, size in enumerate(sizes)]
    progress = keras.utils.Progbar(len(paths), verbose=int(many), unit_name="image")
    inspected = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for result in pool.map(functools.partial(_inspect, decode=decode), paths, sizes):
            inspected.append(result)
            progress.add(1)
    if record is not None:
        rows = enumerate(zip(inspected, sizes, strict=True))
        found = {row: result for row, (result, size) in rows if result != (size, None)}
        with contextlib.suppress(OSError):  # an unwritable home only costs time
            record.parent.mkdir(parents=True, exist_ok=True)
            unfinished = record.with_suffix(f".{os.getpid()}")
            unfinished.write_text(json.dumps(found), encoding="utf-8")
            unfinished.replace(record)
    return inspected


def _record_of(paths: Sequence[Path], sizes: Sequence[Size]) -> Path:
    """The record of these files in their current state."""
    digest = hashlib.sha256()
    for path, size in zip(paths, sizes, strict=True):
        try:
            state = path.stat()
            line = f"{path.absolute()} {size} {state.st_size} {state.st_mtime_ns}\n"
        except (OSError, ValueError):  # ValueError: a name that no file can have
            line = f"{path.absolute()} {size} missing\n"
        digest.update(line.encode(errors="surrogatepass"))
    return keras_home() / "keras_dyhead" / "verified" / f"{digest.hexdigest()}.json"


def _inspect(path: Path, size: Size, decode: bool) -> tuple[Size, str | None]:
    if not os.path.isfile(path):
        return size, f"no such file: {path!s:.200}"
    if not decode and None not in size:
        return size, None
    try:
        stored = tuple(_decode(path).shape[:2])
    except ValueError as error:
        return size, f"the file cannot be decoded: {error}"
    if all(side in (None, actual) for side, actual in zip(size, stored, strict=True)):
        return stored, None
    hint = "; are height and width swapped?" if size == stored[::-1] else ""
    with contextlib.suppress(Exception), Image.open(path) as header:
        orientation = header.getexif().get(_EXIF_ORIENTATION, 1)
        hint = f"; its EXIF orientation {orientation} is not applied" if orientation != 1 else hint
    height, width = ("?" if side is None else side for side in size)
    return size, (
        f"the file is {stored[1]}x{stored[0]} pixels (width x height), "
        f"the annotations say {width}x{height}{hint}"
    )
