"""Shows the doctests of docstrings as code: Markdown would take `>>>` for a quotation."""

import re

import griffe

_DOCTEST = re.compile(r"(?m)^(?P<indent> *)>>> .*(?:\n(?P=indent)\S.*)*")


class DoctestFences(griffe.Extension):
    """Puts every run of lines that begins with `>>>` between fences."""

    def on_object(self, *, obj, **kwargs):
        """Changes the docstring of an object that has been read."""
        if obj.docstring is not None:
            obj.docstring.value = _DOCTEST.sub(_fenced, obj.docstring.value)


def _fenced(match):
    indent = match["indent"]
    return f"{indent}```pycon\n{match[0]}\n{indent}```"
