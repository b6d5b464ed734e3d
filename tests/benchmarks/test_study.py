"""Plans and reports of the study."""

import dataclasses

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import runner
from benchmarks.study import __main__ as command
from benchmarks.study import images
from benchmarks.study import trial as trial_module
from benchmarks.study.plan import DETECTORS, TABLES, Trial, plan_tables, trials_of
from benchmarks.study.report import plot_report, rows_of, write_report

FIGURES = ("AP", "AR100", "AP50", "AP75", "APs", "APm")
TINY = Trial("fcos", steps=10, batch_size=2, channels=16, images=20, held_out=4, image_size=64)


def invoke(*arguments):
    return CliRunner().invoke(command.app, list(map(str, arguments)))


@pytest.fixture
def results(tmp_path):
    """Two blocks add 10.0, 10.5 and 11.0 to ATSS; the last seed diverged, on another backbone."""
    path = tmp_path / "study.jsonl"
    for seed in range(3):
        backbone = "another" if seed == 2 else "one"
        for num_blocks, ap in ((0, 0.1 * seed), (2, 0.1 * seed + 0.1 + 0.005 * seed)):
            trial = Trial(num_blocks=num_blocks, seed=seed, backbone=backbone)
            losses = [2.0, None if seed == 2 and num_blocks else 1.0]
            line = {"figures": dict.fromkeys(FIGURES, ap), "losses": losses, "seconds": 3600}
            runner.append(path, trial, line | {"made_with": {"tensorflow": "2.30"}})
    unpaired = Trial(num_blocks=2, seed=1, backbone="another")
    runner.append(path, unpaired, {"figures": dict.fromkeys(FIGURES, 0.9)})
    return path


def test_every_row_differs_from_its_baseline_in_one_setting():
    for rows in plan_tables().values():
        trials = {row.trial for row in rows}
        for row in rows:
            if row.baseline is None:
                continue
            ours, theirs = map(dataclasses.asdict, (row.trial, row.baseline))
            differing = {name for name in ours if ours[name] != theirs[name]}
            assert row.baseline in trials
            assert len(differing) == 1 or differing == {"num_blocks", "arrangement"}


def test_every_run_is_planned_once_seed_by_seed():
    tables = plan_tables()
    trials = trials_of(tables, 3, "sha")
    assert len(set(trials)) == len(trials) == 3 * 46
    assert [trial.seed for trial in trials] == sorted(trial.seed for trial in trials)
    assert {trial.backbone for trial in trials} == {"sha"}
    assert list(tables) == list(TABLES)
    detectors = plan_tables(["detectors"], ["fcos"])["detectors"]
    assert [row.trial.num_blocks for row in detectors] == [0, 2, 6]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"detector": "yolo"}, "'yolo'"),
        ({"attentions": ("color",)}, "'color'"),
        ({"steps": 15}, "15"),
    ],
)
def test_invalid_trials_are_rejected(arguments, named):
    with pytest.raises(ValueError, match=named):
        Trial(**arguments)


def test_the_report_pairs_by_seed_and_backbone(results):
    found = runner.read(results, Trial)
    tables = plan_tables(["detectors"], ["atss"])
    plain, refined = rows_of(tables["detectors"], found)  # others are not trained
    assert len(plain.figures) == 3 and len(refined.figures) == 4
    assert f"{refined.difference('AP'):+.1f}" == "+10.5 ± 1.2"
    text = write_report(tables, found, "study.png")
    assert "| **+10.5 ± 1.2** |" in text and "(study.png)" in text
    assert "atss, 2 blocks (1 diverged) | 4 |" in text
    assert "without a run are left out (4)." in " ".join(text.split())
    start = "7 training runs, 6 hours on one core. TensorFlow 2.30, ?; backbone another"
    assert " ".join(text.split()).startswith(start)
    with pytest.raises(ValueError, match="No training run"):
        write_report(plan_tables(["length"]), found)
    del tables["detectors"][0]  # its baseline is still known by its runs
    assert [row.label for row in rows_of(tables["detectors"], found)] == [refined.label]
    without = {trial: line for trial, line in found.items() if trial.num_blocks}
    assert rows_of(tables["detectors"], without) == []


def test_the_plot_has_every_mean_interval_and_seed(results):
    (axes,) = plot_report(plan_tables(["detectors"], ["atss"]), runner.read(results, Trial)).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["atss, without DyHead", "atss, 2 blocks (1 diverged)"]
    drawn = [(*map(float, line.get_xdata()),) for line in axes.lines]
    assert any(np.allclose(x, 10) for x in drawn if len(x) == 1)
    assert any(np.allclose(x, (0, 10, 20)) for x in drawn if len(x) == 3)
    bar = axes.collections[0].get_segments()[0]
    width = 4.3027 * 10 / 3**0.5
    np.testing.assert_allclose(bar[:, 0], [10 - width, 10 + width], rtol=1e-4)


def test_the_command_trains_what_is_missing_and_fills_the_page(results, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "RUNS", tmp_path)
    monkeypatch.setattr(images, "draw", lambda trial: None)
    weights = tmp_path / "mine.weights.h5"
    weights.write_bytes(b"weights")
    asked = []
    monkeypatch.setattr(
        command.runner, "run", lambda trials, *_: asked.extend(trials) or trials[:1]
    )
    page = tmp_path / "page.md"
    page.write_text("<!-- study -->\n<!-- end of study -->\n")
    form = ("--only", "detectors", "--detectors", "atss", "--seeds", 2, "--results", results)
    assert invoke(*form, "--backbone-weights", weights, "--page", page).exit_code == 1  # one failed
    assert len(asked) == 12 and len({trial.backbone for trial in asked}) == 1
    assert images.weights_of(asked[0].backbone).read_bytes() == b"weights"
    assert "| atss, 2 blocks | 3 |" in page.read_text()  # the third seed is not requested
    assert (tmp_path / "page.png").stat().st_size > 1000
    planned = invoke(*form, "--plan")
    assert planned.exit_code == 0 and "12 of 12 training runs, about" in planned.output
    assert invoke(*form, "--report").exit_code == 0 and len(asked) == 12


@pytest.mark.parametrize(
    ("options", "named"),
    [(("--detectors", "yolo"), "yolo"), (("--only", "colors"), "colors"), ((), "No training run")],
)
def test_invalid_options_are_named(options, named, tmp_path):
    result = invoke("--report", "--results", tmp_path / "none.jsonl", *options)
    assert result.exit_code == 2 and named in result.output


def test_help_shows_examples_and_every_choice():
    text = invoke("--help").output
    assert all(part in text for part in ("Examples", "--plan", "intervals", *TABLES, *DETECTORS))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"num_blocks": 1, "attentions": ("task",), "alignment": "published", "start": "released"},
        {"detector": "faster-rcnn", "num_blocks": 1, "arrangement": "paper"},
        {"head_layers": 1},
    ],
)
def test_a_trial_trains_what_it_says_from_the_pretrained_backbone(changes, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "RUNS", tmp_path)
    built = []

    def build(*arguments):
        model = build_detector(*arguments)
        built.append((model, np.array(model.backbone.weights[0])))
        return model

    build_detector = trial_module.build
    monkeypatch.setattr(trial_module, "build", build)
    trial = dataclasses.replace(TINY, **changes)
    images.draw(trial)
    images.pretrain(trial, steps=10)
    trial = dataclasses.replace(trial, backbone=images.known_backbone(trial))
    result = trial_module.train(trial)
    assert len(result["losses"]) == 10 and all(loss > 0 for loss in result["losses"])
    assert 0 <= result["figures"]["AP"] <= 1 and result["seconds_per_step"] > 0
    ((model, first_weights),) = built
    model.backbone.load_weights(images.weights_of(trial.backbone))
    np.testing.assert_array_equal(model.backbone.weights[0], first_weights)
    assert getattr(model, "arrangement", "released") == trial.arrangement
    if trial.num_blocks:
        assert (model.neck.start, model.neck.alignment) == (trial.start, trial.alignment)
        assert not model.neck.use_scale_attention or "scale" in trial.attentions
    else:
        assert model.neck is None and model.head_layers == 1
