"""Tables on pages agree with the files they are taken from."""

import json
import re

from docs.pages import ROOT

from benchmarks.detectors.comparison import markdown

README = (ROOT / "README.md").read_text("utf-8")


def page(name):
    return (ROOT / "docs" / f"{name}.md").read_text("utf-8")


def test_costs_of_detectors_agree_with_measurements():
    report = json.loads((ROOT / "benchmarks" / "detectors.json").read_text("utf-8"))
    assert f"<!-- costs -->\n{markdown(report)}<!--" in page("detectors")


def test_times_of_the_tower_agree_with_measurements():
    """Compares forward pass, training step and memory."""
    measured = (ROOT / "benchmarks" / "sampling.md").read_text("utf-8")
    pattern = r"\| tower: (.*) \| (\d+) ms .* \| (\d+) ms .* \| .* \| .* \| (\d+) MiB .* \|"
    towers = re.findall(pattern, measured)
    assert len(towers) == 7
    for name, forward, step, memory in towers:
        assert f"| {name} | {forward} | {step} | {memory} MiB |" in page("performance")


def test_readme_and_page_list_the_same_checkpoints():
    """Compares name, detector, backbone and AP of all seven, in order."""
    row = re.compile(r"^\| (`[\w-]+`) \| ([^|]+) \| (\d\d\.\d) \|", re.MULTILINE)
    assert len(row.findall(README)) == 7
    assert row.findall(page("checkpoints")) == row.findall(README)
