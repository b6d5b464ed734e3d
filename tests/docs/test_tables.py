"""Tables on the pages say what the files say that they are taken from."""

import json
import re

from docs.pages import ROOT

from benchmarks.detectors.comparison import markdown

README = (ROOT / "README.md").read_text("utf-8")


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text("utf-8")


def test_detectors_cost_what_was_measured():
    report = json.loads((ROOT / "benchmarks" / "detectors.json").read_text("utf-8"))
    assert f"<!-- costs -->\n{markdown(report)}<!--" in page("detectors")


def test_the_tower_is_as_fast_as_was_measured():
    """Forward pass, training step and memory, of the tower's rows in the measurements."""
    measured = (ROOT / "benchmarks" / "sampling.md").read_text("utf-8")
    pattern = r"\| tower: (.*) \| (\d+) ms .* \| (\d+) ms .* \| .* \| .* \| (\d+) MiB .* \|"
    towers = re.findall(pattern, measured)
    assert len(towers) == 6
    for name, forward, step, memory in towers:
        assert f"| {name} | {forward} | {step} | {memory} MiB |" in page("performance")


def test_published_checkpoints_are_those_of_their_page():
    """Name, detector, backbone and AP, of all seven and in the same order."""
    row = re.compile(r"^\| (`[\w-]+`) \| ([^|]+) \| (\d\d\.\d) \|", re.MULTILINE)
    assert len(row.findall(README)) == 7
    assert row.findall(page("checkpoints")) == row.findall(README)
