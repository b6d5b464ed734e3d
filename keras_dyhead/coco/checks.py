"""The checks that a COCO annotation file has to pass, and the report of what does not."""

import dataclasses
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

_SHOWN = 20  # problems in one message
# COCO rounds coordinates: a box may reach this far over the edge before it is worth a word.
_ROUNDING = 0.5


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an annotation file or with the images it names.

    Args:
        item: The offending item, such as `"annotation 12"` or `"image 3 (a.jpg)"`.
        message: What is wrong with it.
        kept: `True` for an item that stays in use (a box that reached over the edge of its image
            and was clipped), `False` for one that cannot be used. Defaults to `False`.
    """

    item: str
    message: str
    kept: bool = False

    def __str__(self) -> str:
        return f"{self.item}: {self.message}"


def check(name: str, value: Any, valid: bool, expected: str) -> None:
    """Raises a `ValueError` that names an argument which is not valid."""
    if not valid:
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


def check_on_error(on_error: str) -> None:
    """Refuses an `on_error` other than `"raise"` and `"skip"`."""
    check("on_error", on_error, on_error in ("raise", "skip"), "'raise' or 'skip'")


def report_problems(problems: Sequence[Problem], source: str, on_error: str) -> None:
    """Raises an error that lists the unusable items, or warns once of all problems.

    Problems of items that stay in use never raise. At most 20 are written out, with the total.
    """
    unusable = [problem for problem in problems if not problem.kept]
    if unusable and on_error == "raise":
        heading = f"{source} has {_count(unusable)} (`on_error='skip'` leaves the items out):"
        raise ValueError(heading + _listing(unusable))
    if problems:
        warnings.warn(
            f"{source} has {_count(problems)}: {len(unusable)} left out, "
            f"{len(problems) - len(unusable)} kept. The full list is in `problems`."
            + _listing(problems),
            stacklevel=3,
        )


def _count(problems: Sequence[Problem]) -> str:
    return f"{len(problems)} problem{'s' * (len(problems) > 1)}"


def _listing(problems: Sequence[Problem]) -> str:
    lines = [f"\n  - {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"\n  ... and {len(problems) - _SHOWN} more")
    return "".join(lines)


def read_coco_json(path: Path, without: Sequence[str] = ()) -> dict[str, list]:
    """Reads an annotation file and checks that it has images, annotations and categories.

    Keys in `without` are dropped while it is parsed: the segmentations of COCO take ten times the
    memory of all the rest.
    """

    def drop(record):
        for key in without:
            record.pop(key, None)
        return record

    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, object_hook=drop if without else None)
    except FileNotFoundError:
        raise ValueError(f"`annotations` must be an existing file. Received: {path}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError
        raise ValueError(f"{path} is not a JSON file: {error}") from error
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
    records: Iterable[Any], kind: str, keys: Sequence[str], problems: list[Problem]
) -> Iterator[dict]:
    """Yields the records that have these keys, and an integer id seen for the first time.

    What is wrong with the others is appended to `problems`, by the `kind` of record.
    """
    seen = set()
    for position, record in enumerate(records):
        if not isinstance(record, dict) or "id" not in record:
            problems.append(
                Problem(f"{kind} at position {position}", f"has no id. Received: {record!r:.80}")
            )
            continue
        missing = [key for key in keys if key not in record]
        if missing:
            fault = f"lacks {', '.join(map(repr, missing))}"
        elif not _is_integer(record["id"]):
            fault = f"its id {record['id']!r} is not an integer"
        elif record["id"] in seen:
            fault = "its id is used twice; the first one counts"
        else:
            seen.add(record["id"])
            yield record
            continue
        problems.append(Problem(name_record(record, kind), fault))


def name_record(record: dict, kind: str) -> str:
    """Names a record in a report, with the file name of an image."""
    file_name = f" ({record['file_name']})" if "file_name" in record else ""
    return f"{kind} {record['id']}{file_name}"


def check_categories(records: Iterable[Any], problems: list[Problem]) -> list[dict]:
    """Returns the usable categories in the order of their ids; a name may be used once."""
    names: dict[str, int] = {}
    kept = []
    for record in check_records(records, "category", ("name",), problems):
        first = names.setdefault(str(record["name"]), record["id"])
        if first != record["id"]:
            message = f"its name {record['name']!r} is already that of category {first}"
            problems.append(Problem(f"category {record['id']}", message))
        else:
            kept.append({"id": record["id"], "name": str(record["name"])})
    return sorted(kept, key=lambda category: category["id"])


def check_images(records: Iterable[Any], problems: list[Problem]) -> list[dict]:
    """Returns the image records with a file name and a positive integer size."""
    kept = []
    for record in check_records(records, "image", ("file_name", "height", "width"), problems):
        size = record["height"], record["width"]
        if not isinstance(record["file_name"], str):
            message = f"its file name {record['file_name']!r} is not a string"
            problems.append(Problem(name_record(record, "image"), message))
        elif not all(_is_integer(side) and side > 0 for side in size):
            message = f"its (height, width) {size} are not positive integers"
            problems.append(Problem(name_record(record, "image"), message))
        else:
            kept.append(record)
    return kept


def check_box(bbox: Any, height: int, width: int) -> tuple[list[float] | None, str | None]:
    """Checks a COCO box `[x, y, width, height]` and clips it to its image.

    Returns the clipped box as `[left, top, right, bottom]`, or `None` where it cannot be used; and
    what is wrong with it, or `None`.
    """
    numbers = isinstance(bbox, list) and all(isinstance(v, (int, float)) for v in bbox)
    if not numbers or len(bbox) != 4:
        return None, f"its box is not [x, y, width, height]. Received: {bbox!r:.80}"
    if not all(map(math.isfinite, bbox)):
        return None, f"its box {bbox} has a NaN or infinite value"
    left, top, box_width, box_height = bbox
    right, bottom = left + box_width, top + box_height
    if box_width <= 0 or box_height <= 0:
        return None, f"its box {bbox} (x, y, width, height) has no area"
    where = f"its image of {width}x{height} pixels (width x height)"
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        return None, f"its box {bbox} (x, y, width, height) lies outside {where}"
    clipped = [max(left, 0), max(top, 0), min(right, width), min(bottom, height)]
    overhang = max(-left, -top, right - width, bottom - height)
    if overhang > _ROUNDING:
        return clipped, f"its box {bbox} (x, y, width, height) was clipped to {where}"
    return clipped, None


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
