"""Tables that commands write into documents."""

import re
from pathlib import Path


class MarkedDocument:
    """A Markdown file in which a command replaces what lies between two lines.

    Args:
        path: The file, new or with the lines `<!-- NAME -->` and `<!-- end of NAME -->`.
        name: The name in those lines.
        overwrite: Replace the whole of a file without those lines. Defaults to `False`.

    Raises:
        ValueError: If the file is no `.md`, or exists without the lines and `overwrite` is `False`.
    """

    def __init__(self, path: Path, name: str, overwrite: bool = False):
        self.path = path
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        self._between = re.compile(f"(?<={begin}\n).*?(?={end})", re.DOTALL)
        if path.suffix != ".md":
            raise ValueError(f"The document must end in .md. Received: {path}")
        if path.exists() and not overwrite and not self._between.search(self._read()):
            raise ValueError(
                f"{path} exists without the lines {begin} and {end}: replace it with --overwrite, "
                "or choose another."
            )

    def write(self, text: str) -> None:
        """Writes the text between the lines, or as the whole file where there are none."""
        contents = self._read() if self.path.exists() else ""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._between.search(contents):
            text = self._between.sub(lambda _: text, contents)
        self.path.write_text(text, encoding="utf-8")

    def _read(self):
        return self.path.read_text(encoding="utf-8")
