"""The study's page is what its results give, not what someone wrote."""

import json
import re

import pytest
from docs.pages import ROOT

from keras_dyhead.study import (
    StudyFolder,
    StudySettings,
    make_report,
    markdown_report,
    plan_tables,
)


def test_the_page_is_the_report_of_the_results_that_are_kept():
    committed = json.loads((ROOT / "docs" / "study.json").read_text("utf-8"))
    settings = {name: x for name, x in committed["settings"].items() if name != "shapes"}
    names = [row["configuration"].split("_")[0] for row in committed["tables"][0]["rows"]]
    report = make_report(
        plan_tables(list(dict.fromkeys(names))),
        committed["seeds"],
        StudyFolder(ROOT / "benchmarks" / "study", StudySettings(**settings)),
    )
    assert json.loads(json.dumps(report)) == committed
    assert markdown_report(report, "study.png") in (ROOT / "docs" / "study.md").read_text("utf-8")


NAMES = {
    "ATSS": "atss",
    "Faster R-CNN": "faster-rcnn",
    "FCOS": "fcos",
    "RepPoints": "reppoints",
    "RetinaNet": "retinanet",
}
"""What the pages call the detectors, and the results."""


def test_the_readme_says_what_the_results_say():
    detectors = json.loads((ROOT / "docs" / "study.json").read_text("utf-8"))["tables"][0]["rows"]
    found = {
        row["label"].split(",")[0]: row["differences"]["AP"] for row in detectors if row["baseline"]
    }
    pattern = rf"({'|'.join(NAMES)})\s([+-]\d+\.\d) ± (\d+\.\d)"
    readme = (ROOT / "README.md").read_text("utf-8")
    said = re.findall(pattern, readme)
    assert sorted(name for name, *_ in said) == sorted(NAMES)
    for name, mean, half_width in said:
        difference = found[NAMES[name]]
        assert abs(float(mean) - difference["mean"]) < 0.051, name
        assert abs(float(half_width) - difference["half_width"]) < 0.051, name
    without_layer = re.search(r"without the convolution of its head: (\S+ ± [\d.]+)", readme)
    assert f"| **{without_layer[1]}** |" in (ROOT / "docs" / "study.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("folder", "plan", "count"),
    [
        ("study", {"ablate": "reppoints", "only": ["attentions"]}, 4),
        ("study_no_convolution", {"detectors": ["retinanet"], "only": ["detectors"]}, 2),
        ("study_one_convolution", {"detectors": ["atss"], "only": ["detectors"]}, 2),
    ],
)
def test_the_tables_of_reasons_are_those_of_their_results(folder, plan, count):
    path = ROOT / "benchmarks" / folder
    settings = json.loads((path / "settings.json").read_text("utf-8"))
    del settings["shapes"]
    report = make_report(plan_tables(**plan), 3, StudyFolder(path, StudySettings(**settings)))
    _, *rows = (line for line in markdown_report(report).splitlines() if line.startswith("| "))
    finished = [row for row in rows if "| 3 |" in row]
    assert len(finished) == count
    page = (ROOT / "docs" / "study.md").read_text("utf-8")
    assert "\n".join(finished) in page


def test_the_longer_trainings_are_what_is_kept_of_them():
    page = (ROOT / "docs" / "study.md").read_text("utf-8")
    names = {detector: name for name, detector in NAMES.items()}
    results = list((ROOT / "benchmarks" / "study_long" / "trials").glob("*.json"))
    assert len(results) == 2 * 3  # three detectors, without DyHead and with
    for path in results:
        result = json.loads(path.read_text("utf-8"))
        configuration, figures = result["configuration"], result["figures"]
        blocks = "2 blocks" if configuration["num_blocks"] else "without"
        label = f"{names[configuration['detector']]}, {blocks}"
        assert f"| {label} | {100 * figures['AP']:.1f} | {100 * figures['AR100']:.1f} |" in page
