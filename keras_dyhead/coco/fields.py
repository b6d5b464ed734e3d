"""Reads values of JSON records. A value without a clear meaning becomes `None`.

Exporters write numbers as text, integers as floats and flags as words. Unambiguous values are read,
in annotation files and in records passed to functions.
"""

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

Id = int | str
_FLAGS = {"": 0, "false": 0, "no": 0, "true": 1, "yes": 1}
# pycocotools ignores larger boxes.
_LARGEST_AREA = 1e10


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a text file, stripped and without empty ones.

    The text is in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.
    """
    content = path.read_bytes()
    try:
        text = content.decode(json.detect_encoding(content))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 or UTF-16: {error}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_number(value: Any) -> float | None:
    """Reads a number, also from text. It may be infinite or NaN."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (Real, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    except OverflowError:
        return math.inf
    return number if isinstance(value, str) else value


def read_integer(value: Any) -> int | None:
    """Reads an integer, also from text or a float such as `640.0`."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    number = read_number(value)
    return None if number is None or not float(number).is_integer() else int(number)


def read_side(value: Any) -> int | None:
    """Reads a height or width in pixels."""
    side = read_integer(value)
    return None if side is None or not 1 <= side < 2**31 else side


def read_id(value: Any) -> Id | None:
    """Reads an integer of any size, or text, which stays as it is spelled."""
    if not isinstance(value, str):
        return read_integer(value)
    return value if value.strip() else None


def id_key(value: Id | None) -> Id | None:
    """Returns what spellings of the same id share: 7 for 7, `"7"` and `" 7"`.

    Text keeps its zeros: "7" and "007" may be two ids.
    """
    if not isinstance(value, str):
        return value
    value = value.strip()
    try:
        return int(value) if str(int(value)) == value else value
    except ValueError:
        return value


def number_of(value: Id | None) -> Id | None:
    """Returns the integer that an id spells, also with leading zeros, or its `id_key`."""
    key = id_key(value)
    return int(key) if isinstance(key, str) and re.fullmatch("[0-9]{1,999}", key) else key


def index_ids(ids: Iterable[Id | None]) -> dict[Id | None, Id | None]:
    """Returns an index of ids for `find_id`. Numbers that several of them spell have no entry.

    Of several spellings of an id, the first one counts.
    """
    exact = {}
    for i in ids:
        exact.setdefault(id_key(i), i)
    counts = Counter(map(number_of, exact))
    return {number_of(key): i for key, i in exact.items() if counts[number_of(key)] == 1} | exact


def find_id(value: Id | None, index: Mapping[Id | None, Id | None]) -> Id | None:
    """Returns the id that is meant: the one spelled so, or else the only one with its number."""
    key = id_key(value)
    return index[key] if key in index else index.get(number_of(key))


def spell_alike(ids: Iterable[Id]) -> list[Id]:
    """Returns ids, each in the first of its spellings."""
    first = {}
    return [first.setdefault(id_key(i), i) for i in ids]


def highest_id(ids: Iterable[Id | None]) -> int:
    """Returns the highest number that ids spell, at least 0."""
    return max([0, *(i for i in map(number_of, ids) if isinstance(i, int))])


def read_flag(value: Any) -> int | None:
    """Reads 0 or 1, also from a bool, text or a word. A missing value is 0."""
    if value is None or isinstance(value, (bool, np.bool_)):
        return int(bool(value))
    if isinstance(value, str) and value.strip().lower() in _FLAGS:
        return _FLAGS[value.strip().lower()]
    number = read_number(value)
    return int(number) if number in (0, 1) else None


def read_area(value: Any) -> float | None:
    """Reads an area in square pixels."""
    area = read_number(value)
    return None if area is None or not 0 <= area <= _LARGEST_AREA else area


def read_name(value: Any) -> str | None:
    """Reads a name, without spaces and a byte order mark around it. A number is also a name."""
    if isinstance(value, str):  # different systems compose accents differently
        return unicodedata.normalize("NFC", value).strip().strip("\ufeff").strip() or None
    number = read_number(value)
    if number is None or not math.isfinite(number):
        return None
    return str(read_integer(number) if float(number).is_integer() else number)


def read_box(value: Any) -> list[float] | None:
    """Reads four numbers, which may be infinite or NaN."""
    if not isinstance(value, (list, tuple, np.ndarray)) or len(value) != 4:
        return None
    numbers = [read_number(entry) for entry in value]
    return None if None in numbers else numbers


def box_of_polygons(value: Any) -> list[float] | None:
    """Returns the COCO box around polygons, each a list of x and y in turn, or around one."""
    try:
        polygons = value if isinstance(value[0], list) else [value]
        x, y = np.concatenate([np.reshape(p, (-1, 2)) for p in polygons]).astype("float64").T
        return [float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))]
    except (ValueError, TypeError, LookupError):
        return None


def are_int64(ids: Sequence[Id]) -> bool:
    """Whether all ids fit into int64."""
    return all(isinstance(i, int) and -(2**63) <= i < 2**63 for i in ids)


def id_array(ids: Sequence[Id]) -> np.ndarray:
    """Returns ids as an array: int64, or objects if any is text or a larger integer."""
    if are_int64(ids):
        return np.array(ids, "int64")
    column = np.empty(len(ids), object)
    column[:] = ids
    return column


def id_order(value: Id) -> tuple:
    """The sort key of an id: integers, also as text, come before other text."""
    key = id_key(value)
    return (1, 0, key) if isinstance(key, str) else (0, key, "")
