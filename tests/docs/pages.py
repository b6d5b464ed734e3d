"""The pages of the documentation, including README, and their code blocks."""

import dataclasses
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r" *(?P<fence>```+)(?P<language>[\w-]*)")
_MARK = re.compile(r"<!-- not run: (?P<reason>.*?\w.*?) -->")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        page: File of the block.
        line: Number of its first line of code.
        language: Language of the fence.
        code: Lines of the block, without the indent of the fence.
        reason: Why it is not run, from a comment `<!-- not run: REASON -->` just before it, or
            `None`.
    """

    page: Path
    line: int
    language: str
    code: str
    reason: str | None

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def name_of(page):
    """Returns the path of a page in the repository, for test names."""
    return str(page.relative_to(ROOT))


def blocks_of(page):
    """Returns the fenced blocks of a page, in order."""
    found, before, lines = [], "", page.read_text("utf-8").splitlines()
    number = 0
    while number < len(lines):
        fence = _FENCE.fullmatch(lines[number].rstrip())
        if not fence:
            before = lines[number] if lines[number].strip() else before
            number += 1
            continue
        end = next(i for i in range(number + 1, len(lines)) if lines[i].strip() == fence["fence"])
        indent = lines[number].index(fence["fence"])
        code = "\n".join(line[indent:] for line in lines[number + 1 : end])
        mark = _MARK.fullmatch(before.strip())
        reason = mark["reason"] if mark else None
        found.append(Block(page, number + 2, fence["language"], code, reason))
        before, number = "", end + 1
    return found
