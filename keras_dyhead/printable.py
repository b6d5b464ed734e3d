"""Text for terminals and figures: other people's text made safe, and counts."""

import re

# Control characters, line separators, bidirectional controls and surrogates.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    r"""Returns text on one line with invisible characters escaped.

    Args:
        text: A class name, path or message.

    Example:

    >>> print(printable("red\n[apple]"))
    red\n[apple]
    """
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun.

    >>> counted(1, "DyHead block"), counted(2, "box"), counted(0, "class")
    ('1 DyHead block', '2 boxes', '0 classes')
    """
    plural = "es" if noun.endswith(("s", "x")) else "s"
    return f"{number} {noun}" + plural * (number != 1)
