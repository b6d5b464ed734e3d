"""What is wrong with an annotation file, collected first and told all at once."""

import dataclasses
import warnings
from collections.abc import Sequence

_SHOWN = 20


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


def check_on_error(on_error: str) -> None:
    """Refuses an `on_error` other than `"raise"` and `"skip"`."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f'`on_error` must be "raise" or "skip". Received: on_error={on_error!r}')


def report_problems(problems: Sequence[Problem], source: str, on_error: str) -> None:
    """Raises or warns once with a list of problems.

    Args:
        problems: The problems found. Those of items that stay in use never raise.
        source: The file they were found in.
        on_error: `"raise"` to raise an error that lists the unusable items, `"skip"` to warn.

    Raises:
        ValueError: If `on_error="raise"` and an item cannot be used. At most 20 problems are
            written out, with the total.
    """
    unusable = [problem for problem in problems if not problem.kept]
    if unusable and on_error == "raise":
        raise ValueError(
            f"{source} has {_count(unusable)} (`on_error='skip'` leaves the items out):"
            + _listing(unusable)
        )
    if problems:
        warnings.warn(
            f"{source} has {_count(problems)}: {len(unusable)} left out, "
            f"{len(problems) - len(unusable)} kept. The full list is in `problems`."
            + _listing(problems),
            stacklevel=3,
        )


def _count(problems: Sequence[Problem]) -> str:
    return f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"


def _listing(problems: Sequence[Problem]) -> str:
    lines = [f"\n  - {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"\n  ... and {len(problems) - _SHOWN} more")
    return "".join(lines)
