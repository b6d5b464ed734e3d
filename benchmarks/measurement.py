"""Time and memory of one implementation, in a process of its own."""

import contextlib
import importlib
import multiprocessing
import os
import platform
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

FIGURES = {
    "forward_s": "forward",
    "step_s": "forward + backward",
    "first_forward_s": "first forward",
    "first_step_s": "first training step",
    "peak_mib": "peak memory",
}
"""What is measured; memory in MiB above that of the built model."""


class Measurement:
    """Measures one implementation, as often as it is asked; between two measurements it waits.

    Args:
        workload: What to compute; passed on to the implementation.
        implementation: Path below `benchmarks` of a function, such as
            `"sampling.torch_peer.torchvision_op"`, that returns forward pass, training step and
            the versions at work. The forward pass returns NumPy arrays.
        repeats: Counted calls of one measurement, of which the median is taken.
        backend: Keras backend. Defaults to `"tensorflow"`.
        form: Of sampling, `"sparse"` or `"gather"`. Defaults to `None`: as the package chooses.
        options: Further arguments of the implementation.
    """

    def __init__(
        self,
        workload: Any,
        implementation: str,
        repeats: int,
        backend: str = "tensorflow",
        form: str | None = None,
        options: dict | None = None,
    ):
        environment = {
            "KERAS_BACKEND": backend,
            "CUDA_VISIBLE_DEVICES": "",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        spawn = multiprocessing.get_context("spawn")
        self._name = implementation
        self._connection, theirs = spawn.Pipe()
        task = (workload, implementation, repeats, form, options or {})
        self._process = spawn.Process(target=_serve, args=(theirs, environment, *task), daemon=True)

    def __enter__(self):
        self._process.start()
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.join()

    def take(self) -> dict:
        """Measures once more.

        Returns:
            `FIGURES`, of memory the peak so far; the first time also `"magnitude"`, the sum of the
            outputs' mean magnitudes, and `"version"`.

        Raises:
            RuntimeError: If the process fails.
        """
        self._connection.send("measure")
        while not self._connection.poll(0.1):
            if not self._process.is_alive():
                raise RuntimeError(f"{self._name}: exit status {self._process.exitcode}")
        answer = self._connection.recv()
        if "error" in answer:
            raise RuntimeError(f"{self._name} failed: {answer['error']}")
        return answer


def _serve(connection, environment, workload, implementation, repeats, form, options):
    """Answers every message with the figures of one measurement."""
    os.environ.update(environment)
    try:
        # The peer runs without Keras and TensorFlow, which would count into its memory.
        module, _, function = implementation.rpartition(".")
        module = importlib.import_module(f"benchmarks.{module}")
        with contextlib.ExitStack() as stack:
            if form:
                from keras_dyhead.ops.sampling_form import sampling_form

                stack.enter_context(sampling_form(form))
            calls = getattr(module, function)(workload, **options)
            measurements = _measurements(*calls, repeats)
            next(measurements)  # the memory of the built model
            while connection.recv():
                connection.send(next(measurements))
    except Exception as error:
        connection.send({"error": f"{type(error).__name__}: {error}"})


def _measurements(forward, step, version, repeats):
    """What is measured when it is asked for: more the first time."""
    before = _forget_peak_memory()
    yield
    found = {"version": version}
    found["first_forward_s"], outputs = _timed(forward)
    found["magnitude"] = float(sum(np.abs(o).mean(dtype="float64") for o in outputs))
    del outputs
    found["forward_s"] = _median(forward, repeats)
    found["first_step_s"], _ = _timed(step)
    while True:
        found["step_s"] = _median(step, repeats)
        found["peak_mib"] = _peak_memory() - before
        yield found
        found = {"forward_s": _median(forward, repeats)}


def _timed(function):
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def _median(function, repeats):
    return statistics.median(_timed(function)[0] for _ in range(repeats))


def _forget_peak_memory():
    """Returns the resident memory in MiB; `_peak_memory` counts from here on.

    Elsewhere than on Linux it returns the largest so far, which cannot be forgotten.
    """
    if platform.system() != "Linux":
        return _peak_memory()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak_memory():
    if platform.system() == "Linux":
        return _status("VmHWM")
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _status(name):
    """An entry of the kernel's record of this process, which is in KiB, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
