"""What `mkdocs build` does beyond its plugins: formulas as MathML, and pages from elsewhere."""

import re
from pathlib import Path

import latex2mathml.converter
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
_PUBLISHED = {".md", ".json", ".jsonl"}

# Between name and description of what a function returns, which has no name here.
_DASH = re.compile(r'(<li class="doc-section-item field-body">)\s*–\s*(?=<div)')


def on_files(files, config):
    """Adds the tables and figures of `benchmarks`, which lies beside the folder of the docs."""
    for path in sorted(p for p in (ROOT / "benchmarks").iterdir() if p.suffix in _PUBLISHED):
        files.append(File.generated(config, f"benchmarks/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Lets links out of the folder of the docs, as the repository has them, lead to that page."""
    return markdown.replace("](../benchmarks/", "](benchmarks/").replace("](../docs/", "](../")


def on_page_content(html, page, config, files):
    """Replaces formulas by MathML, which browsers draw without scripts."""
    return _FORMULA.sub(_mathml, _DASH.sub(r"\1", html))


def _mathml(match):
    display = "block" if match["tag"] == "div" else "inline"
    latex = match["latex"].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    formula = latex2mathml.converter.convert(latex, display=display)
    if display == "inline":
        return formula
    return f'<div style="overflow: auto hidden">{formula}</div>'  # wider than a telephone
