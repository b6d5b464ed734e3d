"""Makes text from other people's files safe for terminals and figures."""

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
