"""A runner trains what its file lacks and writes one line per finished training."""

import dataclasses
import json
import multiprocessing
import os

import pytest

from benchmarks import runner


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial for `train`."""

    blocks: int = 0
    seed: int = 0


def train(trial):
    assert trial.blocks < 9, "out of luck"
    return {"figures": {"AP": trial.blocks / 10}, "threads": os.environ["TF_NUM_INTRAOP_THREADS"]}


def test_only_missing_runs_start_and_failures_are_reported(tmp_path, capfd):
    results, told = tmp_path / "runs" / "results.jsonl", []
    trials = [Trial(1), Trial(9), Trial(2)]
    runner.append(results, Trial(2), {"figures": {"AP": 0.2}})
    failed = runner.run(trials, results, train, workers=2, tell=told.append)
    assert failed == [Trial(9)]
    assert "out of luck" in capfd.readouterr().err
    found = runner.read(results, Trial)
    assert set(found) == {Trial(1), Trial(2)}
    line = found[Trial(1)]
    assert line["figures"] == {"AP": 0.1} and line["threads"] == "1" and line["seconds"] > 0
    assert set(line["made_with"]) == {"commit", "keras", "keras-hub", "tensorflow", "python"}
    assert told[0] == "1 of 3 training runs are finished" and len(told) == 3
    assert any("blocks=1: AP 10.0" in text for text in told)
    assert any("blocks=9: FAILED" in text for text in told)
    assert runner.run(trials[::2], results, None, workers=1, tell=told.append) == []
    assert told[-1] == "2 of 2 training runs are finished"


def test_lines_written_by_hand_count_too(tmp_path):
    """Without fields that have their defaults, and without a final newline."""
    results = tmp_path / "results.jsonl"
    results.write_text('\n{"blocks": 2, "variant": "x", "figures": {}}')
    runner.append(results, Trial(3), {"figures": {}})
    runner.append(results, Trial(3), {"figures": {"AP": 1.0}})
    found = runner.read(results, Trial)
    assert list(found) == [Trial(2), Trial(3)]
    assert found[Trial(2)]["variant"] == "x" and found[Trial(3)]["figures"] == {}


@pytest.mark.parametrize("line", ["{", "[1]", '{"blocks": {}, "figures": {}}'])
def test_an_invalid_line_is_named(line, tmp_path):
    results = tmp_path / "results.jsonl"
    results.write_text(f'{{"blocks": 2}}\n{line}\n')
    with pytest.raises(ValueError, match=r"results\.jsonl, line 2"):
        runner.read(results, Trial)


def test_several_processes_append_at_once(tmp_path):
    results = tmp_path / "results.jsonl"
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=append_many, args=(results, seed)) for seed in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert sorted((line["blocks"], line["seed"]) for line in lines) == [
        (blocks, seed) for blocks in range(200) for seed in range(2)
    ]


def append_many(results, seed):
    for blocks in range(200):
        runner.append(results, Trial(blocks, seed), {"losses": [0.123456789] * 500})


def test_a_trial_is_described_by_its_changed_fields():
    assert runner.describe(Trial(2)) == "blocks=2"
