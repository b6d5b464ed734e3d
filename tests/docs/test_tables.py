"""The README's tables say what the pages say that they are taken from."""

import json

from docs.pages import ROOT

README = (ROOT / "README.md").read_text("utf-8")


def rows_with(first, text):
    """The cells of table rows whose first cell this is."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [cells for row in rows if (cells := [cell.strip() for cell in row])[0] == first]


def test_detectors_cost_what_was_profiled():
    """Parameters, multiply-adds and latency without DyHead and with 6 blocks."""
    costs = json.loads((ROOT / "docs" / "detectors.json").read_text("utf-8"))["costs"]
    ends = {(cost["detector"], cost["blocks"]): cost for cost in costs}
    for name in {detector for detector, _ in ends}:
        pair = [ends[name, blocks] for blocks in (0, 6)]
        more = "> " if pair[0]["uncounted"] else ""
        expected = [
            [f"{cost['parameters'] / 1e6:.1f} M" for cost in pair],
            [f"{more}{cost['multiply_adds'] / 1e9:.1f}" for cost in pair],
            [f"{cost['milliseconds']:.0f} ms" for cost in pair],
        ]
        assert rows_with(name, README) == [[name, *map(" / ".join, expected)]]


def test_published_checkpoints_are_those_of_their_page():
    """Name, detector, backbone and AP, of all seven and in the same order."""
    page = (ROOT / "docs" / "checkpoints.md").read_text("utf-8")
    table = page.split("| name |")[1].split("\n\n")[0]
    names = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert len(names) == 7
    readme = README.split("| published AP |")[1].split("\n\n")[0]
    for name, line in zip(names, readme.splitlines()[2:], strict=True):
        assert rows_with(name, table)[0][:3] == rows_with(name, line)[0]
