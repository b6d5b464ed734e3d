"""Self-contained HTML pages without scripts."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from keras_dyhead.printable import printable

# The policy makes the browser refuse everything outside the file.
_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --text: #1c2024; --soft: #5b6470; --page: #f6f7f9;
  --card: #ffffff; --line: #d9dde3; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --text: #e8eaed; --soft: #a3abb6; --page: #15181c; --card: #1f2328; --line: #3a4048; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; padding: 1rem; max-width: 70rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.6rem; line-height: 1.2; }}
h2 {{ font-size: 1.2rem; margin: 0 0 .5rem; }}
section {{ background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1rem; margin: 1rem 0; }}
figure {{ margin: 1rem 0; }}
figcaption, .soft {{ color: var(--soft); font-size: .9rem; }}
.scroll {{ overflow-x: auto; }}
.scroll:focus-visible {{ outline: 2px solid var(--soft); }}
img {{ display: block; max-width: 100%; height: auto; background: #ffffff; border-radius: .3rem; }}
.scroll img {{ min-width: min(100%, 40rem); max-width: 100%; }}
@media (max-width: 45rem) {{ .scroll img {{ min-width: 40rem; max-width: none; }} }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0;
  border-bottom: 1px solid var(--line); }}
th {{ font-weight: 600; width: 12rem; }}
@media (max-width: 45rem) {{ th, td {{ display: block; width: auto; }} th {{ border: 0; }} }}
</style>
</head>
<body>
"""


class Picture(NamedTuple):
    """A picture in a page.

    Attributes:
        png: The PNG file's bytes.
        size: (width, height) in pixels.
        alt: Alternative text.
        caption: The text below.
        wide: Whether to scroll it on narrow screens instead of shrinking it, for small print.
    """

    png: bytes
    size: tuple[int, int]
    alt: str
    caption: str
    wide: bool = True


class Section(NamedTuple):
    """A section of a page: a heading, and optional text, table and pictures."""

    heading: str
    text: str = ""
    table: Mapping[str, str] = {}
    pictures: Sequence[Picture] = ()


def render_page(title: str, sections: Sequence[Section]) -> str:
    """Renders a page as UTF-8 HTML, with escaped text and pictures as data URIs.

    >>> render_page("A & B", [Section("Facts", table={"blocks": "6"})])[:15]
    '<!doctype html>'
    """
    parts = [_HEAD.format(title=_escape(title)), f"<h1>{_escape(title)}</h1>\n<main>\n"]
    for section in sections:
        parts.append(f"<section>\n<h2>{_escape(section.heading)}</h2>\n")
        if section.text:
            parts.append(f"<p>{_escape(section.text)}</p>\n")
        if section.table:
            rows = (
                f'<tr><th scope="row">{_escape(name)}</th><td>{_escape(value)}</td></tr>\n'
                for name, value in section.table.items()
            )
            parts.append(f"<table>\n{''.join(rows)}</table>\n")
        parts.extend(_render_picture(picture) for picture in section.pictures)
        parts.append("</section>\n")
    return "".join([*parts, "</main>\n</body>\n</html>\n"])


def _escape(text: str) -> str:
    return escape(printable(text))


def _render_picture(picture: Picture) -> str:
    data, (width, height) = base64.b64encode(picture.png).decode(), picture.size
    image = (
        f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" '
        f'alt="{_escape(picture.alt)}">'
    )
    if picture.wide:  # keyboards must reach scrolling content
        label = _escape(f"{picture.caption.split(':')[0]}, scrolls sideways")
        image = f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{image}</div>'
    return f"<figure>{image}<figcaption>{_escape(picture.caption)}</figcaption></figure>\n"
