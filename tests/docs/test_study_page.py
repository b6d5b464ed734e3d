"""The study's page is what its results give, not what someone wrote."""

import json

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
