"""Hooks of `mkdocs build`: formulas as MathML, and pages from `benchmarks`."""

import re
from pathlib import Path

import latex2mathml.converter
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
_PUBLISHED = {".md", ".json", ".jsonl"}

# The dash between name and description of a return value, which has no name here.
_DASH = re.compile(r'(<li class="doc-section-item field-body">)\s*–\s*(?=<div)')


def on_files(files, config):
    """Adds the tables and figures of `benchmarks`, next to the docs folder."""
    for path in sorted(p for p in (ROOT / "benchmarks").iterdir() if p.suffix in _PUBLISHED):
        files.append(File.generated(config, f"benchmarks/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrites links that leave the docs folder in the repository."""
    return markdown.replace("](../benchmarks/", "](benchmarks/").replace("](../docs/", "](../")


def on_page_content(html, page, config, files):
    """Replaces formulas by MathML, which browsers render without scripts."""
    return _FORMULA.sub(_mathml, _DASH.sub(r"\1", html))


def _mathml(match):
    display = "block" if match["tag"] == "div" else "inline"
    latex = match["latex"].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    formula = latex2mathml.converter.convert(latex, display=display)
    if display == "inline":
        return formula
    return f'<div style="overflow: auto hidden">{formula}</div>'  # scrolls on narrow screens
