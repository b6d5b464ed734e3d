"""Renders doctests in docstrings as code; Markdown would render `>>>` as a quote."""

import re

import griffe

_DOCTEST = re.compile(r"(?m)^(?P<indent> *)>>> .*(?:\n(?P=indent)\S.*)*")


class DoctestFences(griffe.Extension):
    """Puts fences around every block of lines that starts with `>>>`."""

    def on_object(self, *, obj, **kwargs):
        """Changes the docstring of a loaded object."""
        if obj.docstring is not None:
            obj.docstring.value = _DOCTEST.sub(_fenced, obj.docstring.value)


def _fenced(match):
    indent = match["indent"]
    return f"{indent}```pycon\n{match[0]}\n{indent}```"
