"""Tables have means and differences, and replace the marked part of a page."""

import pytest

from benchmarks.tables import Row, fill, markdown


def figures(ap):
    return {"AP": ap, "APm": -1.0}


def test_rows_have_intervals_and_differences_by_seed():
    without = {0: figures(0.0), 1: figures(0.1), 2: figures(0.2)}
    gains = {0: figures(0.1), 1: figures(0.205), 2: figures(0.31)}
    rows = [
        Row("without", without),
        Row("gains", gains, without),
        Row("one seed", {1: figures(0.05)}, without),
        Row("to come", {}, without),
    ]
    assert markdown(rows, {"AP": "AP", "APm": "medium"}).splitlines()[2:] == [
        "| without | 3 | 10.0 ± 24.8 | | – |",
        "| gains | 3 | 20.5 ± 26.1 | **+10.5 ± 1.2** | – |",
        "| one seed | 1 | 5.0 | -5.0 | – |",
        "| to come | 0 | – | | – |",
    ]


def test_a_page_keeps_the_text_around_its_tables(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- study -->\nstale\n<!-- end of study -->\nafter\n")
    for text in ("new\n", r"| \1 |"):
        fill(page, "study", text)
        between = text.strip()
        expected = f"before\n<!-- study -->\n{between}\n<!-- end of study -->\nafter\n"
        assert page.read_text() == expected
    with pytest.raises(ValueError, match=r"page.md must have the lines <!-- other -->"):
        fill(page, "other", "text")
