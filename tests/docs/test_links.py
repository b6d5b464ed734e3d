"""Links between pages work in the repository; mkdocs checks those of the site."""

import re

import pytest
from docs.pages import PAGES, ROOT, name_of

_LINK = re.compile(r"\[[^\]]*\]\((?!https?://)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
_CODE = re.compile(r"^ *```.*?^ *```|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def anchors(page):
    """Returns the anchors of a page's headings, as on GitHub and mkdocs, and of API entries."""
    text = page.read_text("utf-8")
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[\s-]+", "-", heading) for heading in plain} | {
        name for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    }


def broken_links(page):
    found = []
    for link in _LINK.finditer(_CODE.sub("", page.read_text("utf-8"))):
        target = (page.parent / link["path"]).resolve() if link["path"] else page
        if not target.exists():
            found.append(f"{link[0]}: there is no {target}")
        elif link["anchor"] and link["anchor"] not in anchors(target):
            found.append(f"{link[0]}: {target.name} has no such heading")
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings_that_exist(page):
    assert not broken_links(page)


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A title\n[a](#a-title) [b](#b) [c](none.md) `[d](none.md)` [e](page.md)")
    assert len([line for line in broken_links(page) if "heading" in line]) == 1
    assert len([line for line in broken_links(page) if "none.md" in line]) == 1


def test_pages_contain_no_local_paths():
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(work|tmp|root|home)/", page.read_text("utf-8")), page


def test_lines_of_pages_end_at_100_characters():
    """Except tables and links, which cannot be wrapped."""
    for page in [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "tests").rglob("*.md"))]:
        for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
            exempt = line.startswith(("|", "![")) or "](" in line
            assert len(line) <= 100 or exempt, f"{page}:{number}"
