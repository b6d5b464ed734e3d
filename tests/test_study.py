"""A study trains what it says, goes on where it stopped, and reports what was found."""

import dataclasses
import itertools
import json
import math
import re
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from keras_dyhead.cli import app
from keras_dyhead.detectors import DETECTORS
from keras_dyhead.study import (
    TITLES,
    Configuration,
    StudyFolder,
    StudySettings,
    estimate_seconds,
    make_report,
    markdown_report,
    paired_difference,
    plan_tables,
    plot_report,
    run,
    run_study,
    t_interval,
    trial,
    trials,
)
from keras_dyhead.study.intervals import _QUANTILES
from keras_dyhead.study.plan import ATTENTIONS, BACKBONE_WEIGHTS
from keras_dyhead.study.pretraining import pretrain_backbone
from keras_dyhead.study.trial import run_trial, training_settings
from keras_dyhead.study.worker import Worker
from keras_dyhead.training.settings import build_detector

TINY = StudySettings(
    steps=10, pretraining=2, images=40, held_out=4, image_size=64, batch_size=2, channels=16
)
ALL_ROWS = [row for table in plan_tables() for row in table.rows]
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def invoke(*arguments):
    return CliRunner().invoke(app, ["study", *map(str, arguments)])


def result_of(ap, loss=1.5, seconds=60.0):
    return {
        "figures": dict.fromkeys(FIGURES, ap) | {"AR100": 0.4 * ap, "APl": -1.0},
        "losses": [3.0, loss],
        "parameters": 123456,
        "seconds_per_step": 0.25,
        "seconds": {"to_first_step": 5.0, "training": 50.0, "all": seconds},
        "made_with": {"keras_dyhead": "1.2.3", "cores": 2},
    }


class FakeWorker:
    """In place of a process: answers at once, notes what it was asked."""

    asked = []
    failing = ()

    def __init__(self, threads, log):
        self.threads = threads

    def run(self, settings, data, configuration=None, seed=None):
        assert (data / "train" / "instances.json").exists()
        if configuration is None:
            if "pretraining" in self.failing:
                raise RuntimeError("out of luck")
            assert not (data / BACKBONE_WEIGHTS).exists()
            (data / BACKBONE_WEIGHTS).touch()
            return {"accuracy": 0.9}
        assert (data / BACKBONE_WEIGHTS).exists() == bool(settings.pretraining)
        self.asked.append((configuration, seed))
        if configuration.detector in self.failing:
            raise RuntimeError("out of luck")
        return result_of(0.2 + 0.1 * bool(configuration.num_blocks) + 0.01 * seed)

    def close(self):
        pass


@pytest.fixture
def asked(monkeypatch):
    """Replaces the processes; holds what is trained."""
    monkeypatch.setattr(FakeWorker, "asked", [])
    monkeypatch.setattr(run, "Worker", FakeWorker)
    return FakeWorker


# Statistics


def test_the_quantiles_leave_a_fortieth_of_students_distribution_above_them():
    """Against the distribution's density, integrated numerically."""
    for freedom, quantile in enumerate(_QUANTILES, start=1):
        x = np.linspace(0, quantile, 200_001)
        log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
        density = (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
        density *= math.exp(log_scale) / math.sqrt(freedom * math.pi)
        below = 0.5 + quantile * np.mean((density[1:] + density[:-1]) / 2)
        assert below == pytest.approx(0.975, abs=4e-6)  # of four decimals


def test_the_interval_is_the_one_in_the_textbook():
    """`scipy.stats.t.interval(0.95, 4, loc=3, scale=scipy.stats.sem([1, 2, 3, 4, 5]))`."""
    estimate = t_interval([1, 2, 3, 4, 5])
    assert estimate.mean == 3
    assert estimate.mean - estimate.half_width == pytest.approx(1.0367568, abs=1e-4)
    assert estimate.mean + estimate.half_width == pytest.approx(4.9632432, abs=1e-4)


@pytest.mark.parametrize("count", [2, 3, 10, 60])
def test_the_interval_holds_the_truth_in_19_of_20_cases(count):
    rng = np.random.default_rng(count)
    samples = rng.normal(7, 2, (4000, count))
    hits = [abs(e.mean - 7) <= e.half_width for e in map(t_interval, samples)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.011)  # three standard errors


def test_one_value_has_no_interval_and_none_is_refused():
    assert dataclasses.astuple(t_interval([4])) == (4.0, None, (4.0,))
    with pytest.raises(ValueError, match="at least one"):
        t_interval([])


def test_what_a_seed_does_to_both_drops_out_of_the_difference():
    baseline = {0: 10.0, 1: 90.0, 2: 50.0, 3: 7.0}
    estimate = paired_difference({2: 52.0, 0: 13.0, 1: 91.0, 4: 0.0}, baseline)
    assert estimate.values == (3.0, 1.0, 2.0) and estimate.mean == 2.0
    assert estimate.half_width == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)  # deviation 1
    assert paired_difference({5: 1.0}, baseline) is None


# The plan


def test_every_configuration_has_a_name_of_its_own_and_is_trained_once_with_each_seed():
    tables = plan_tables()
    planned = trials(tables, 3)
    configurations = {row.configuration for table in tables for row in table.rows}
    assert len(set(planned)) == len(planned) == 3 * len(configurations) == 3 * 28
    assert len({configuration.name for configuration in configurations}) == len(configurations)
    assert [seed for _, seed in planned] == [0] * 28 + [1] * 28 + [2] * 28


def test_each_detector_is_compared_with_itself_without_dyhead():
    rows = plan_tables(only=["detectors"])[0].rows
    for plain, refined in zip(rows[::2], rows[1::2], strict=True):
        assert plain.baseline is None and refined.baseline == plain.configuration
        assert dataclasses.replace(refined.configuration, num_blocks=0) == plain.configuration
    assert [row.configuration.detector for row in rows[::2]] == list(DETECTORS)


def test_attentions_are_switched_on_one_by_one_in_pairs_and_together():
    rows = plan_tables(only=["attentions"], num_blocks=3)[0].rows
    subsets = [c for n in range(4) for c in itertools.combinations(ATTENTIONS, n)]
    assert {row.configuration.attentions for row in rows} == set(subsets) and len(rows) == 8
    none = Configuration("atss", 3, ())
    assert [row.baseline for row in rows] == [None] + [none] * 7


def test_only_alignment_or_depth_differ_where_they_are_compared():
    alignment, blocks = plan_tables(only=["blocks", "alignment"], ablate="fcos")
    first, second = (row.configuration for row in alignment.rows)
    assert dataclasses.replace(first, alignment="published") == second and first.num_blocks == 2
    found = {(row.configuration.num_blocks, row.configuration.head_convs) for row in blocks.rows}
    assert found == {(0, None), (0, 4), (1, None), (2, None), (4, None), (6, None)}
    assert {row.configuration.detector for row in blocks.rows} == {"fcos"}


def test_trainings_are_compared_without_and_with_dyhead_at_the_same_length():
    rows = plan_tables(only=["length"])[0].rows
    assert [(row.configuration.num_blocks, row.configuration.length) for row in rows] == [
        (blocks, length) for length in (0.25, 0.5, 1.0) for blocks in (0, 2)
    ]
    for row in rows:
        plain = dataclasses.replace(row.configuration, num_blocks=0)
        assert row.baseline == (plain if row.configuration.num_blocks else None)


def test_random_and_pretrained_backbones_are_compared_each_without_and_with_dyhead():
    rows = plan_tables(only=["start"])[0].rows
    configurations = [row.configuration for row in rows]
    assert [(c.num_blocks, c.pretrained) for c in configurations] == [
        *((0, False), (2, False)),
        *((0, True), (2, True)),
    ]
    assert [row.baseline for row in rows] == [None, configurations[0], None, configurations[2]]


# Running


def test_only_what_is_missing_is_trained(asked, tmp_path):
    folder = StudyFolder(tmp_path, TINY)
    planned = trials(plan_tables(["fcos", "atss"], only=["detectors"]), 2)
    assert run_study(planned[:3], folder, workers=1) == {} and asked.asked == planned[:3]
    states = []
    assert run_study(planned, StudyFolder(tmp_path, TINY), 2, states.append) == {}
    assert sorted(map(str, asked.asked)) == sorted(map(str, planned)) and len(planned) == 8
    assert [state.finished for state in states] == [3, 4, 5, 6, 7, 8]
    assert states[0].remaining == pytest.approx(5 * 60 / 2) and states[-1].remaining == 0


def test_a_training_that_fails_stops_no_other_and_is_tried_again(asked, tmp_path, monkeypatch):
    planned = trials(plan_tables(["fcos", "atss"], only=["detectors"]), 1)
    monkeypatch.setattr(asked, "failing", ("fcos",))
    failures = run_study(planned, StudyFolder(tmp_path, TINY), workers=1)
    assert failures == dict.fromkeys(
        ["fcos_0-blocks, seed 0", "fcos_2-blocks, seed 0"], "out of luck"
    )
    monkeypatch.setattr(asked, "failing", ())
    asked.asked.clear()
    assert run_study(planned, StudyFolder(tmp_path, TINY), workers=1) == {}
    assert asked.asked == [trial for trial in planned if trial[0].detector == "fcos"]


def test_a_backbone_that_cannot_be_pretrained_ends_the_study(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(asked, "failing", ("pretraining",))
    planned = trials(plan_tables(["fcos"], only=["detectors"]), 1)
    with pytest.raises(RuntimeError, match="out of luck"):
        run_study(planned, StudyFolder(tmp_path, TINY), workers=1)
    form = ["--out", tmp_path / "run", "--images", 8, "--held-out", 4, "--image-size", 64]
    result = invoke(*form)
    assert result.exit_code == 1 and "pretrained: out of luck" in " ".join(result.output.split())
    assert asked.asked == []


def test_results_with_other_settings_are_not_mixed(asked, tmp_path):
    planned = trials(plan_tables(["fcos"], only=["detectors"]), 1)
    run_study(planned, StudyFolder(tmp_path, TINY), workers=1)
    other = dataclasses.replace(TINY, steps=20)
    with pytest.raises(ValueError, match=r"steps=10 \(now 20\)"):
        StudyFolder(tmp_path, other)
    assert StudyFolder(tmp_path, TINY).load(*planned[0])
    assert StudyFolder(tmp_path, other, overwrite=True).load(*planned[0]) is None


def test_a_file_that_was_being_written_is_no_result(tmp_path):
    folder, configuration = StudyFolder(tmp_path, TINY), Configuration("atss")
    folder.save(configuration, 0, result_of(0.5))
    (finished,) = (tmp_path / "trials").iterdir()
    half = finished.read_text()[:20]
    finished.with_suffix(".unfinished").write_text(half)
    assert folder.load(configuration, 0)["figures"]["AP"] == 0.5
    finished.rename(finished.with_suffix(".unfinished"))
    assert folder.load(configuration, 0) is None


def test_the_remaining_time_follows_trainings_of_the_same_configuration():
    quick, slow, unknown = (Configuration("atss", blocks) for blocks in (0, 6, 2))
    left = [(quick, 1), (slow, 1), (slow, 2), (unknown, 0)]
    assert estimate_seconds(left, {}, 2) is None
    seconds = {quick: [10.0], slow: [90.0, 110.0]}
    assert estimate_seconds(left, seconds, 2) == (10 + 100 + 100 + 55) / 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 15},
        {"pretraining": -1},
        {"images": 4},
        {"channels": 20},
        {"image_size": 32},
        {"head_convs": -1},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=f"(?s){next(iter(wrong))}.*{next(iter(wrong.values()))}"):
        StudySettings(**wrong)


@pytest.mark.parametrize(
    "configuration", dict.fromkeys(row.configuration for row in ALL_ROWS), ids=lambda c: c.name
)
def test_a_configuration_is_the_detector_it_names(configuration, tmp_path):
    settings = training_settings(configuration, 7, TINY, tmp_path)
    attentions = [name for name in ATTENTIONS if getattr(settings, f"use_{name}_attention")]
    assert tuple(attentions) == configuration.attentions
    own_layers = configuration.detector == "faster-rcnn"
    common = None if own_layers else TINY.head_convs
    assert settings.head_layers == (configuration.head_convs or common)
    for field in ("detector", "num_blocks", "alignment"):
        assert getattr(settings, field) == getattr(configuration, field)
    same = {**vars(TINY), "seed": 7}
    for field in ("image_size", "batch_size", "channels", "backbone", "learning_rate", "seed"):
        assert getattr(settings, field) == same[field]


@pytest.mark.slow
def test_a_process_trains_what_it_is_told_and_survives_an_error(tmp_path):
    folder = StudyFolder(tmp_path, TINY)
    folder.prepare()
    worker = Worker(1, tmp_path / "worker.log")
    task = {"seed": 1, "settings": TINY, "data": folder.data}
    try:
        assert 0 <= worker.run(settings=TINY, data=folder.data)["accuracy"] <= 1
        with pytest.raises(RuntimeError, match=r"ValueError: .*'theirs'"):
            worker.run(configuration=Configuration("fcos", 1, alignment="theirs"), **task)
        result = worker.run(configuration=Configuration("fcos"), **task)
    finally:
        worker.close()
    assert len(result["losses"]) == 10 and all(loss > 0 for loss in result["losses"])
    assert result["parameters"] > 10_000 and 0 <= result["figures"]["AP"] <= 1
    seconds = result["seconds"]
    assert 0 < 10 * result["seconds_per_step"] < seconds["training"] < seconds["all"]
    assert result["made_with"]["threads"] == 1


@pytest.mark.slow
def test_the_backbone_learns_to_classify_and_trainings_start_from_it(tmp_path, monkeypatch):
    settings = dataclasses.replace(TINY, pretraining=80, images=150)
    folder = StudyFolder(tmp_path, settings)
    folder.prepare()
    assert pretrain_backbone(settings, folder.data)["accuracy"] > 0.4  # of five classes
    started = []

    def build(*arguments):
        model = build_detector(*arguments)
        monkeypatch.setattr(model, "fit", lambda *_, **__: started.append(model.backbone))
        return model

    monkeypatch.setattr(trial, "build_detector", build)
    for pretrained in (True, False):
        with pytest.raises(AttributeError):  # a training that gave nothing
            run_trial(Configuration("fcos", pretrained=pretrained), 0, settings, folder.data)
    pretrained, random = (np.asarray(backbone.weights[0]) for backbone in started)
    started[1].load_weights(folder.data / BACKBONE_WEIGHTS)
    np.testing.assert_array_equal(pretrained, started[1].weights[0])
    assert not np.array_equal(pretrained, random)


@pytest.mark.slow
def test_the_same_seed_trains_the_same_detector_whatever_was_trained_before(tmp_path):
    folder = StudyFolder(tmp_path, TINY)
    folder.prepare()
    pretrain_backbone(TINY, folder.data)
    first, _, again = (
        run_trial(Configuration("atss", blocks), seed, TINY, folder.data)
        for blocks, seed in ((1, 5), (2, 6), (1, 5))
    )
    assert first["losses"] == again["losses"] and first["figures"] == again["figures"]


def test_a_worker_that_dies_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_dyhead.json_process.sys.executable", shutil.which("false"))
    worker = Worker(1, tmp_path / "worker.log")
    with pytest.raises(RuntimeError, match=r"status 1, see .*worker\.log"):
        worker.run(configuration=Configuration("atss"), seed=0, settings=TINY, data=tmp_path)


# The report


@pytest.fixture
def folder(tmp_path):
    """ATSS gains 10.0, 10.5 and 11.0; FCOS has two of three seeds without, one with DyHead."""
    folder = StudyFolder(tmp_path, TINY)
    for seed in range(3):
        folder.save(Configuration("atss"), seed, result_of(0.1 * seed))
        gained = result_of(0.1 * seed + 0.1 + 0.005 * seed)
        folder.save(Configuration("atss", 2), seed, gained)
    folder.save(Configuration("fcos"), 0, result_of(0.3, loss=None))
    folder.save(Configuration("fcos"), 1, result_of(0.4))
    folder.save(Configuration("fcos", 2), 1, result_of(0.35))
    return folder


def test_the_report_has_means_intervals_and_paired_differences(folder):
    report = make_report(plan_tables(["atss", "fcos"], only=["detectors"]), 3, folder)
    plain, refined, fcos, _ = report["tables"][0]["rows"]
    assert plain["figures"]["AP"]["mean"] == pytest.approx(10)
    assert plain["figures"]["AP"]["half_width"] == pytest.approx(4.3027 * 10 / 3**0.5, rel=1e-4)
    assert refined["differences"]["AP"]["mean"] == pytest.approx(10.5)
    half_width = refined["differences"]["AP"]["half_width"]
    assert half_width == pytest.approx(4.3027 * 0.5 / 3**0.5, rel=1e-4)
    assert plain["differences"]["AP"] is None and fcos["seeds"] == [0, 1]
    assert json.dumps(report, allow_nan=False)


def test_there_is_no_report_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="no finished training"):
        make_report(plan_tables(), 3, StudyFolder(tmp_path, TINY))
    assert "no finished training" in " ".join(invoke("--out", tmp_path, "--report").output.split())


def test_the_table_shows_what_is_certain_what_diverged_and_what_is_missing(folder):
    tables = plan_tables(["atss", "fcos"], only=["detectors", "alignment"])
    text = markdown_report(make_report(tables, 3, folder), "study.png")
    rows = {line.split(" | ")[0][2:]: line for line in text.splitlines() if line.startswith("| ")}
    assert "| **+10.5 ± 1.2** | 8.2 ± 10.4 | **+4.2 ± 0.5** |" in rows["atss, 2 blocks"]
    assert "| 123 k |" in rows["atss, 2 blocks"]
    assert "| 1.50 | 250 |" in rows["atss, 2 blocks"]
    assert "| diverged |" in rows["fcos, without"] and "| 2 |" in rows["fcos, without"]
    assert "| -5.0 |" in rows["fcos, 2 blocks"]  # one seed in common: no interval
    assert re.search(r"Incomplete.*\(6 trainings.*fcos_2-blocks, seed 0", text)
    assert rows["published"].count("–") == 11 and "(study.png)" in text
    assert "keras_dyhead 1.2.3, cores 2" in text and text.startswith("Seeds 0 to 2; 10 steps")


def test_the_plot_has_every_mean_interval_and_seed(folder):
    report = make_report(plan_tables(["atss", "fcos"], only=["detectors"]), 3, folder)
    (axes,) = plot_report(report).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["atss, without", "atss, 2 blocks", "fcos, without", "fcos, 2 blocks"]
    drawn = [(*map(float, line.get_xdata()),) for line in axes.lines]
    assert any(np.allclose(x, 10) for x in drawn if len(x) == 1)
    assert any(np.allclose(x, (10, 20.5, 31)) for x in drawn if len(x) == 3)
    (bar,) = axes.collections[1].get_segments()
    width = 4.3027 * np.std([10, 20.5, 31], ddof=1) / 3**0.5
    np.testing.assert_allclose(bar[:, 0], [20.5 - width, 20.5 + width], rtol=1e-4)


# The command


SMALL = ["--steps", 10, "--images", 8, "--held-out", 4, "--image-size", 64, "--channels", 16]
SMALL += ["--pretraining", 0]


def test_the_command_trains_reports_and_goes_on(asked, tmp_path):
    out, document = tmp_path / "run", tmp_path / "study.md"
    document.write_text("before\n<!-- study -->\nstale\n<!-- end of study -->\nafter\n")
    form = ["--out", out, *SMALL, "--only", "detectors", "--detectors", "fcos", "--seeds", 2]
    result = invoke(*form)
    assert result.exit_code == 0 and "**+10.0 ± 0.0**" in result.output, result.output
    assert len(asked.asked) == 4 and (out / "study.png").stat().st_size > 1000
    result = invoke(*form, "--detectors", "fcos,atss", "--report", "--document", document)
    assert result.exit_code == 0 and len(asked.asked) == 4
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "stale" not in text
    assert "Incomplete" in text and "atss_0-blocks, seed 1" in text and "(study.png)" in text
    assert json.loads((tmp_path / "study.json").read_text())["missing"]
    assert invoke(*form, "--detectors", "fcos,atss").exit_code == 0 and len(asked.asked) == 8


def test_a_failed_training_is_reported(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(asked, "failing", ("fcos",))
    form = ["--out", tmp_path, *SMALL, "--only", "detectors", "--detectors", "fcos,atss"]
    result = invoke(*form, "--seeds", 1)
    assert result.exit_code == 1 and "fcos_2-blocks, seed 0: out of luck" in result.output
    assert "| atss, 2 blocks | 1 |" in result.output and "Seed 0; 10 steps" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--detectors", "yolo"), "among.*'yolo'"),
        (("--only", "colours"), "among.*'colours'"),
        (("--steps", "15"), "multiple of 10.*15"),
        (("--blocks", "0"), "at least 1.*0"),
        (("--report", "--overwrite"), "exclude"),
        (("--document", "x.txt"), "end in .md.*x.txt"),
    ],
)
def test_wrong_options_are_named(options, message, tmp_path):
    result = invoke("--out", tmp_path / "run", *options)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    text = " ".join(result.output.replace("│", " ").split())
    assert all(part in text for part in message.split(".*")), text
    assert not (tmp_path / "run").exists()


def test_help_shows_examples_and_every_choice():
    text = invoke("--help").output
    parts = ("Examples", "--only", "--report", "--seeds", "intervals", "<!-- study -->")
    assert all(part in text for part in (*parts, *TITLES, *DETECTORS))
