"""Texts from other people's files, as terminals and pictures can show them."""

import re

# Control characters, line separators, turns of the writing direction, halves of characters.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    r"""Returns a text in one line, with all that is no visible character spelled out.

    Args:
        text: A class name, a path, a message.

    Example:

    >>> print(printable("red\n[apple]"))
    red\n[apple]
    """
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))
