"""Training runs and reports of the recipe, the compositions and the photographs."""

import json

import pytest
from typer.testing import CliRunner

from benchmarks import compositions, photographs, recipe, runner

PROGRAMS = (recipe, compositions, photographs)


def figures(ap):
    return dict.fromkeys(("AP", "AR100", "AP50", "AP75", "APs", "APm"), ap)


@pytest.fixture
def asked(monkeypatch):
    """Replaces the training runs and records the requested ones."""
    found = []

    def run(trials, *_, **__):
        found.extend(trials)
        return trials[:1]

    monkeypatch.setattr(runner, "run", run)
    for program in (recipe, compositions):
        monkeypatch.setattr(program, "draw", lambda: None)
    return found


@pytest.fixture
def annotations(tmp_path):
    """Seven photographs with as many objects as their number."""
    path = tmp_path / "instances.json"
    contents = {
        "images": [{"id": number} for number in (5, 1, 2, 3, 4, 6, 7)],
        "annotations": [{"image_id": n, "id": 10 * n + i} for n in range(1, 8) for i in range(n)],
        "categories": [{"id": 1, "name": "tree"}],
    }
    path.write_text(json.dumps(contents))
    return path


def invoke(program, *arguments):
    return CliRunner().invoke(program.app, list(map(str, arguments)))


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_shows_examples(program):
    text = invoke(program, "--help").output
    name = program.__name__.split(".")[-1]
    assert all(part in text for part in ("Examples", "--report", f"python -m benchmarks.{name}"))


def test_every_program_requests_all_its_training_runs(asked, annotations, tmp_path):
    none = ("--results", tmp_path / "none.jsonl")
    assert invoke(recipe, *none).exit_code == 1  # one failed
    assert [(t.num_blocks, t.seed) for t in asked[:3]] == [(0, 0), (6, 0), (0, 1)]
    assert len(asked) == 2 * 3
    asked.clear()
    assert invoke(compositions, "--depths", "0,1,2", "--no-residual", *none).exit_code == 1
    assert len(set(asked)) == 3 * 3 * 3
    assert {t.composition for t in asked if not t.residual} == {"keras-cv-yolov8"}
    asked.clear()
    assert invoke(photographs, tmp_path, annotations, "--seeds", 2, *none).exit_code == 1
    assert len(set(asked)) == 2 * 2 * 3
    assert invoke(compositions, "--only", "yolo").exit_code == 2


def test_the_folds_of_photographs_are_a_partition(annotations):
    contents, held_out = json.loads(annotations.read_text()), []
    for fold in range(photographs.FOLDS):
        train, test = photographs.split(contents, fold)
        assert train["categories"] == test["categories"] == contents["categories"]
        for part in (train, test):
            numbers = {image["id"] for image in part["images"]}
            assert {a["image_id"] for a in part["annotations"]} == numbers
            assert len(part["annotations"]) == sum(numbers)
        assert len(train["images"]) + len(test["images"]) == 7
        held_out += [image["id"] for image in test["images"]]
    assert sorted(held_out) == list(range(1, 8))


def test_reports_compare_with_the_baseline_without_dyhead():
    found = {}
    for seed in (0, 1):
        for depth in (0, 2):
            after = {"3": figures(0.2), "6": figures(0.3 + 0.1 * bool(depth) + 0.01 * seed)}
            found[recipe.Trial(depth, seed)] = {"after": after}
    lines = recipe.report(found).splitlines()
    assert lines[3].startswith("| 3 epochs, 2 blocks | 2 | 20.0 ± 0.0 | +0.0 ± 0.0 |")
    assert lines[5].startswith("| 6 epochs, 2 blocks | 2 | 40.5 ± 6.4 | **+10.0 ± 0.0** |")

    found = {
        compositions.Trial("keras-hub-retinanet", 1): {"figures": figures(0.5)},
        compositions.Trial("keras-cv-yolov8"): {"figures": figures(0.3)},
        compositions.Trial("keras-cv-yolov8", 1, residual=False): {"figures": figures(0.4)},
    }
    lines = compositions.report(found).splitlines()
    assert lines[3].startswith("| keras-cv-yolov8, 1 block, in place | 1 | 40.0 | +10.0 |")
    assert lines[4].startswith("| keras-hub-retinanet, 1 block | 1 | 50.0 | | 50.0 |")

    found = {
        photographs.Trial("sha", depth, fold, seed): {"figures": figures(0.1 * (fold + depth))}
        for depth in (0, 1)
        for fold in range(3)
        for seed in (0, 1)
    }
    del found[photographs.Trial("sha", 1, 2, 1)]  # a seed counts only with all its folds
    lines = photographs.report(found).splitlines()
    assert lines[-2].startswith("| without DyHead | 2 | 10.0 ± 0.0 | |")
    assert lines[-1].startswith("| 1 block | 1 | 20.0 | +10.0 |")
