"""The benchmark measures what it says, and compares only what computes the same."""

import contextlib
import re
from pathlib import Path

import pytest

from keras_dyhead.benchmark import Workload, compare, comparison, fit_exponent, markdown, scaling
from keras_dyhead.benchmark.measurement import Measurement

ROW = {
    "version": "v",
    "magnitude": 1.0,
    "forward_s": 0.1,
    "step_s": 0.5,
    "first_forward_s": 1.0,
    "first_step_s": 2.0,
    "peak_mib": 100.0,
}


class Measured(contextlib.nullcontext):
    """What a `Measurement` looks like to those who take it."""

    def __init__(self, take):
        super().__init__(self)
        self.take = take


@pytest.fixture
def measured(monkeypatch):
    """Replaces the measurement by one that returns the row of its implementation."""
    rows = {}
    monkeypatch.setattr(
        comparison,
        "Measurement",
        lambda workload, implementation, **_: Measured(
            lambda: ROW | rows.get(implementation, {}),
        ),
    )
    return rows


@pytest.mark.slow
def test_one_implementation_runs_in_a_process_of_its_own():
    workload = Workload(64, 48, blocks=1, channels=16)
    found = []
    for sparse in (False, True):
        with Measurement(workload, "keras_op", 2, sparse=sparse) as measurement:
            found.append(measurement.take())
            again = measurement.take()
    plain, sparse = found
    assert plain["magnitude"] == pytest.approx(sparse["magnitude"], rel=1e-5)
    assert plain["first_step_s"] > plain["step_s"] > 0 and plain["peak_mib"] > 0
    assert set(again) == {"forward_s", "step_s", "peak_mib"}
    assert 0 < again["step_s"] < sparse["first_step_s"]
    with (
        Measurement(workload, "keras_op", 1, options={"nonsense": 1}) as measurement,
        pytest.raises(RuntimeError, match=r"(?s)keras_op failed.*TypeError.*nonsense"),
    ):
        measurement.take()


def test_ratios_are_the_peers_figures_over_ours(measured):
    measured["torchvision_op"] = {"forward_s": 0.4, "peak_mib": 50.0}
    table = markdown(compare(Workload(), parts=("op",)))
    row = next(line for line in table.splitlines() if line.startswith("| op: keras_dyhead |"))
    assert "100 ms (4.0x)" in row and "500 ms (1.0x)" in row and "100 MiB (0.5x)" in row


def test_without_a_peer_there_are_no_ratios(measured):
    table = markdown(compare(Workload(), peer="none"))
    assert "torchvision" not in table and "x)" not in table


def test_implementations_that_compute_something_else_are_refused(measured):
    measured["keras_tower"] = {"magnitude": 1.001}
    with pytest.raises(RuntimeError, match=r"tower: keras_dyhead: outputs differ.*1\.001"):
        compare(Workload())


def test_all_implementations_of_the_table_exist():
    sources = [
        (Path(comparison.__file__).parent / name).read_text()
        for name in ("implementations.py", "torch_peer.py")
    ]
    defined = re.findall(r"^def (\w+)\(workload", "".join(sources), re.MULTILINE)
    for backend in comparison.BACKENDS:
        for task in comparison.tasks(backend, "torchvision").values():
            assert task["implementation"] in defined


def test_the_exponent_of_a_power_law_is_found_and_drawn_whatever_the_machine_does(monkeypatch):
    """Sizes are measured in turn: a machine that becomes slower does so for all of them."""
    calls = []

    def measurement(w, *_, **__):
        def take():
            calls.append(w)
            size = w.height * w.width * w.batch * w.blocks
            return ROW | {"step_s": 3 * size**0.9 * 1.5 ** ((len(calls) - 1) // 2)}

        return Measured(take)

    monkeypatch.setattr(scaling, "Measurement", measurement)
    report = scaling.measure_scaling(Workload(), sides=(64, 128), batches=(1, 3), blocks=(1, 5))
    for rows in report["series"].values():
        assert fit_exponent(rows, "step_s") == pytest.approx(0.9)
        assert fit_exponent(rows, "forward_s") == pytest.approx(0)
    labels = [axes.get_xlabel() for axes in scaling.plot_scaling(report).axes]
    assert labels == ["", "", "", "pixels", "images", "blocks"]


@pytest.mark.parametrize(
    "arguments, message",
    [({"backend": "theano"}, "'theano'"), ({"peer": "mmcv"}, "'mmcv'")],
)
def test_unknown_backends_and_peers_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        compare(Workload(), **arguments)


@pytest.mark.parametrize("arguments", [{"height": 0}, {"channels": 20}])
def test_impossible_workloads_are_refused(arguments):
    with pytest.raises(ValueError, match=str(next(iter(arguments.values())))):
        Workload(**arguments)
