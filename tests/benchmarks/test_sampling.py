"""The sampler benchmark measures what it says and compares only equal computations."""

import contextlib
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.measurement import FIGURES, Measurement
from benchmarks.sampling import comparison, scaling
from benchmarks.sampling.__main__ import app
from benchmarks.sampling.workload import Workload

ROW = {
    "version": "v",
    "magnitude": 1.0,
    "step_magnitude": 1.0,
    "forward_s": 0.1,
    "step_s": 0.5,
    "first_forward_s": 1.0,
    "first_step_s": 2.0,
    "peak_mib": 100.0,
}


class Measured(contextlib.nullcontext):
    """A stand-in for `Measurement`."""

    def __init__(self, take):
        super().__init__(self)
        self.take = lambda seconds=None: take()


@pytest.fixture
def measured(monkeypatch):
    """Replaces the measurement by the fixed row of its implementation."""
    rows = {}

    def measurement(workload, implementation, **_):
        return Measured(lambda: ROW | rows.get(implementation, {}))

    monkeypatch.setattr(comparison, "Measurement", measurement)
    return rows


@pytest.mark.slow
def test_an_implementation_runs_in_a_separate_process():
    workload = Workload(64, 48, blocks=1, channels=16)
    found = []
    for form in ("gather", None):
        with Measurement(
            workload, "sampling.implementations.keras_op", 2, form=form
        ) as measurement:
            found.append(measurement.take())
            again = measurement.take()
    plain, chosen = found
    assert plain["magnitude"] == pytest.approx(chosen["magnitude"], rel=1e-5)
    assert set(FIGURES) < set(plain) and plain["first_step_s"] > plain["step_s"] > 0
    assert plain["peak_mib"] > 0
    assert set(again) == {"forward_s", "step_s", "peak_mib"}
    assert 0 < again["step_s"] < chosen["first_step_s"]
    wrong = {"repeats": 1, "options": {"nonsense": 1}}
    with (
        Measurement(workload, "sampling.implementations.keras_op", **wrong) as measurement,
        pytest.raises(RuntimeError, match=r"keras_op failed: TypeError.*nonsense"),
    ):
        measurement.take()


def test_ratios_are_the_peers_figures_over_ours(measured):
    measured["sampling.torch_peer.torchvision_op"] = {"forward_s": 0.4, "peak_mib": 50.0}
    report = comparison.compare([Workload()], parts=("op",))
    table = comparison.markdown(json.loads(json.dumps(report)))
    row = next(line for line in table.splitlines() if line.startswith("| op: keras_dyhead |"))
    assert "100 ms (4.0x)" in row and "500 ms (1.0x)" in row and "100 MiB (0.5x)" in row
    alone = comparison.markdown(comparison.compare([Workload()], peer=False))
    assert "torchvision" not in alone and "x)" not in alone


@pytest.mark.parametrize(
    "figure, what", [("magnitude", "outputs"), ("step_magnitude", "gradients")]
)
def test_implementations_that_compute_something_else_are_named(measured, figure, what):
    measured["sampling.implementations.keras_tower"] = {figure: 1.001}
    report = comparison.compare([Workload()])
    missing = [line for line in report["missing"] if "paper" not in line]
    assert len(missing) == 3 and "keras_dyhead, tensorflow, float32, 512x512" in missing[0]
    assert f"{what} differ, mean magnitudes 1.001 and 1.0" in missing[0]
    assert f"Missing or wrong: {missing[0]}" in comparison.markdown(report)


def test_rows_are_compared_within_a_dtype_and_size(measured):
    """The peer is measured only in float32; each size has its own table."""
    workloads = [Workload(64, side, dtype=d) for side in (64, 96) for d in ("float32", "bfloat16")]
    table = comparison.markdown(comparison.compare(workloads, ("jax", "torch"), parts=("op",)))
    first, second = table.split("Operation: ")[1:]
    assert first.startswith("8x8x256") and second.startswith("8x12x256")
    for part in (first, second):
        rows = re.findall(r"^\| (op: [^|]*) \|", part, re.MULTILINE)
        assert rows[0] == "op: torchvision" and len(rows) == 1 + 2 * 2 * 2
        assert "op: keras_dyhead, jax, bfloat16" in rows


def test_failed_and_slow_rows_are_left_for_the_next_run(monkeypatch, tmp_path):
    lines, calls = tmp_path / "rows.jsonl", []

    def measurement(workload, implementation, backend, **_):
        def take():
            calls.append(backend)
            if len(calls) == 2:
                raise RuntimeError("out of memory")
            return ROW

        return Measured(take)

    monkeypatch.setattr(comparison, "Measurement", measurement)
    settings = {"backends": ("jax", "torch"), "parts": ("op",), "unfinished": lines, "peer": False}
    report = comparison.compare([Workload()], **settings)
    assert len(report["results"]) == 3
    (missing,) = report["missing"]
    assert "alone, jax" in missing and "out of memory" in missing
    again = comparison.compare([Workload()], **settings)
    assert len(again["results"]) == 4 and not again["missing"]
    assert calls == ["jax", "jax", "torch", "torch", "jax"]


def test_all_implementations_of_the_table_exist():
    folder = Path(comparison.__file__).parent
    for backend in ("tensorflow", "jax", "torch", comparison.PEER):
        for task in (
            task for part in ("op", "tower") for task in comparison.tasks(part, backend).values()
        ):
            room, module, function = task["implementation"].split(".")
            source = (folder.parent / room / f"{module}.py").read_text()
            assert re.search(rf"^def {function}\(workload", source, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_backend_is_measured_and_computes_the_same(backend, dtype):
    workloads = [Workload(64, 64, blocks=1, channels=16, dtype=d) for d in ("float32", dtype)]
    report = comparison.compare(workloads, [backend], peer=False, repeats=1)
    assert report["missing"] == [] and len(report["results"]) == 5 * len(workloads)


def test_the_exponent_is_found_and_plotted_on_a_machine_that_slows_down(monkeypatch):
    """Sizes are measured in turn, so a slowdown affects all of them."""
    calls = []

    def measurement(w, *_, **__):
        def take():
            calls.append(w)
            size = w.height * w.width * w.batch * w.blocks
            return ROW | {"step_s": 3 * size**0.9 * 1.5 ** ((len(calls) - 1) // 2)}

        return Measured(take)

    monkeypatch.setattr(scaling, "Measurement", measurement)
    ends = {name: sizes[::3] for name, sizes in scaling.SIZES.items()}
    monkeypatch.setattr(scaling, "SIZES", ends)
    series = scaling.measure_scaling(Workload(), "tensorflow", 3, lambda _: None)
    for rows in series.values():
        assert scaling.fit_exponent(rows, "step_s") == pytest.approx(0.9)
        assert scaling.fit_exponent(rows, "forward_s") == pytest.approx(0)
    labels = [axes.get_xlabel() for axes in scaling.plot_scaling(series).axes]
    assert labels == ["", "", "", "pixels", "images", "blocks"]


@pytest.mark.parametrize(
    "arguments",
    [
        *(("--size", "x"), ("--channels", "20"), ("--blocks", "0"), ("--dtype", "int8")),
        ("--backend", "mxnet"),
    ],
)
def test_invalid_workloads_are_rejected(arguments):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and arguments[1] in result.output


def test_a_missing_gpu_is_reported_at_once(monkeypatch):
    monkeypatch.setenv("PATH", "")
    result = CliRunner().invoke(app, ["--gpu"])
    assert result.exit_code == 2 and "nvidia-smi finds no GPU" in result.output


def test_help_shows_examples():
    text = CliRunner().invoke(app, ["--help"]).output
    assert all(part in text for part in ("Examples", "--scaling", "torchvision", "jax"))
