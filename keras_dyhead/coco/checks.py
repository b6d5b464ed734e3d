"""Checks of a COCO annotation file, and reports of the problems found."""

import dataclasses
import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_dyhead.coco.fields import (
    Id,
    find_id,
    id_key,
    id_order,
    index_ids,
    read_id,
    read_name,
    read_side,
)
from keras_dyhead.ops.arguments import check, fits
from keras_dyhead.printable import counted

_SHOWN = 10  # problems of a kind in one message


@dataclasses.dataclass(frozen=True)
class Problem:
    """A problem with an annotation file or an image it names.

    Args:
        item: The affected item, such as `"annotation 12"` or `"image 3 (a.jpg)"`.
        message: What is wrong with it.
        kept: Whether the item stays in use, such as a box that was clipped to its image. Defaults
            to `False`.
    """

    item: str
    message: str
    kept: bool = False

    def __str__(self) -> str:
        return f"{self.item}: {self.message}"


def check_count(least: int, **counts: int | None) -> None:
    """Raises a `ValueError` if an argument is neither `None` nor an integer of at least `least`."""
    expected = f"an integer of at least {least}"
    for name, value in counts.items():
        check(name, value, value is None or fits(value, int) and value >= least, expected)


def warn_of_other_size(
    sizes: np.ndarray, canvases: Sequence[tuple[int, int]], limits: tuple[int, int] | None
) -> None:
    """Warns if a detector would see images larger than in training, by more than a quarter.

    Takes heights and widths `(N, 2)`, the canvases of training, and the lengths that the
    preprocessor gives to the shorter and longer side, or `None`.
    """
    if limits is None:
        return
    later = np.minimum(limits[0] / sizes.min(axis=1), limits[1] / sizes.max(axis=1))
    fitted = np.max([np.min(canvas / sizes, axis=1) for canvas in np.array(canvases)], axis=0)
    growth = float(np.median(later / np.minimum(later, fitted)))
    if growth > 1.25:
        warnings.warn(
            f"Images are resized to fit {' or '.join(map(str, canvases))} in training, but "
            f"`preprocessor` makes them {growth:.1f} times as large for detection, where the model "
            f"may then find nothing. Build it with `image_shape`, such as {(*canvases[0], 3)}.",
            stacklevel=3,
        )


def report_problems(problems: Sequence[Problem], source: str, on_error: str) -> None:
    """Raises an error that lists the unusable items, or warns once about all problems.

    Items that stay in use never raise an error.
    """
    unusable = [problem for problem in problems if not problem.kept]
    if unusable and on_error == "raise":
        number = counted(len(unusable), "problem")
        heading = f"{source} has {number} (`on_error='skip'` leaves the items out):"
        raise ValueError("\n  - ".join([heading, *list_problems(unusable)]))
    if problems:
        heading = (
            f"{source} has {counted(len(problems), 'problem')}: {len(unusable)} left out, "
            f"{len(problems) - len(unusable)} kept. The full list is in `problems`."
        )
        warnings.warn("\n  - ".join([heading, *list_problems(problems)]), stacklevel=3)


def list_problems(problems: Iterable[Problem | str]) -> list[str]:
    """Returns one line per problem. Beyond ten of the same kind, a single line counts them.

    Problems of the same kind differ only in names and numbers.
    """
    kinds = defaultdict(list)
    for line in map(str, problems):
        kinds[tuple(word for word in line.split() if word.isalpha())].append(line)
    lines = []
    for same in kinds.values():
        lines += same[:_SHOWN]
        if len(same) > _SHOWN:
            lines.append(f"... and {len(same) - _SHOWN} more like the last, {len(same)} in all")
    return lines


def read_json(path: Path, object_hook: Callable[[dict], Any] | None = None) -> Any:
    """Reads a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark."""
    content = path.read_bytes()
    try:
        return json.loads(content, object_hook=object_hook)
    except (ValueError, RecursionError) as error:  # JSONDecodeError, UnicodeDecodeError
        raise ValueError(f"{path} is not a JSON file: {error}") from error


def read_coco_json(path: Path, object_hook: Callable[[dict], Any] | None = None) -> dict[str, list]:
    """Reads an annotation file and checks that it has images, annotations and categories."""
    try:
        content = read_json(path, object_hook)
    except FileNotFoundError:
        raise ValueError(f"`annotations` must be an existing file. Received: {path}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} must hold a JSON object with images, annotations and categories. "
            f"Received: a {type(content).__name__}"
        )
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise ValueError(
                f"{path} must have a list under {key!r}. Received: {type(content.get(key))}, "
                f"keys of the file: {sorted(content)}"
            )
    return content


def check_records(
    records: Iterable[Any], kind: str, key: str, problems: list[Problem]
) -> Iterator[dict]:
    """Yields the records that have `key` and a new id, with their id as it is read.

    Problems with other records are appended to `problems`. `kind` names the records.
    """
    seen = {}
    for position, record in enumerate(records):
        found = read_id(record.get("id")) if isinstance(record, dict) else None
        if found is None:
            name = f"{kind} at position {position}"
            problems.append(Problem(name, f"has no usable id. Received: {record!r:.80}"))
            continue
        first = seen.setdefault(id_key(found), record)
        name = name_record(record, kind)
        if first is not record and first == record:
            problems.append(Problem(name, "is listed twice and used once", kept=True))
        elif first is not record:
            problems.append(Problem(name, "its id is used twice; the first record is kept"))
        elif key not in record:
            problems.append(Problem(name, f"lacks {key!r}"))
        else:
            yield record | {"id": found, "position": position}


def name_record(record: dict, kind: str) -> str:
    """Returns the name of a record for a report, with the file name of an image."""
    name = f"{kind} {record['id']}"
    return f"{name} ({record['file_name']!s:.100})" if "file_name" in record else name


def check_categories(
    records: Iterable[Any], annotations: Sequence[Any], problems: list[Problem]
) -> dict[str, Id]:
    """Returns the id of every usable category name, ordered by id.

    If categories share a name, the one that annotations use is chosen: exporters add a root
    category that no annotation uses. If annotations use several of them, the name is ambiguous.
    """
    ids = defaultdict(list)
    for record in check_records(records, "category", "name", problems):
        name = read_name(record["name"])
        if name is None:
            message = f"its name {record['name']!r:.80} is not text"
            problems.append(Problem(f"category {record['id']}", message))
        else:
            ids[name].append(record["id"])
    chosen = {name: same[0] for name, same in ids.items()}
    repeated = {name: same for name, same in ids.items() if len(same) > 1}
    if repeated:
        index = index_ids(i for same in ids.values() for i in same)
        used = (a.get("category_id") for a in annotations if isinstance(a, dict))
        used = {find_id(read_id(i), index) for i in used}
    for name, same in repeated.items():
        chosen[name] = first = next((i for i in same if i in used), same[0])
        for other in same:
            if other != first:
                message = f"its name {name!r} is already the name of category {first}"
                message += "" if other in used else "; no annotation uses this category"
                problems.append(Problem(f"category {other}", message, other not in used))
    return dict(sorted(chosen.items(), key=lambda pair: id_order(pair[1])))


def check_images(
    records: Iterable[Any], without_files: bool, problems: list[Problem]
) -> list[dict]:
    """Returns the image records that have a file name, with their `size` (height, width).

    A side that is not a valid number of pixels becomes `None` or, `without_files`, a problem.
    """
    kept = []
    for record in check_records(records, "image", "file_name", problems):
        size = tuple(read_side(record.get(key)) for key in ("height", "width"))
        if not isinstance(record["file_name"], str) or not record["file_name"].strip():
            message = f"its file name {record['file_name']!r} is not a string that names a file"
        elif without_files and None in size:
            stated = tuple(record.get(key) for key in ("height", "width"))
            message = f"its (height, width) {stated!r:.80} are not positive integers"
        else:
            kept.append(record | {"size": size})
            continue
        problems.append(Problem(name_record(record, "image"), message))
    return kept
