"""How small each notebook runs in the tests, and what its outputs must show however large it runs."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "notebooks"


@dataclasses.dataclass(frozen=True)
class QuickRun:
    """The quick run of one notebook.

    Args:
        parameters: Values that replace those of the cell tagged `parameters`.
        pictures: Number of PNG outputs, in the quick run as in the committed file.
        prints: Regular expressions that the printed text holds in this order, in the quick run as
            in the committed file.
    """

    parameters: Mapping[str, Any]
    pictures: int
    prints: tuple[str, ...] = ()


QUICK_RUNS: dict[str, QuickRun] = {}
"""By the names of the notebooks, without suffix."""
