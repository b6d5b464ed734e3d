"""Time and memory of one implementation, in a process of its own."""

import contextlib
import importlib
import multiprocessing
import os
import statistics
import subprocess
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.memory import PeakMemory

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
            the versions at work. Both return arrays, or `None`, when everything is computed.
        repeats: Counted calls of one measurement, of which the median is taken.
        backend: Keras backend; of a peer the framework. Defaults to `"tensorflow"`.
        form: Of sampling, `"sparse"` or `"gather"`. Defaults to `None`: as the package chooses.
        options: Further arguments of the implementation.
        gpu: Whether to compute on the GPU, and to measure its memory.
    """

    def __init__(
        self,
        workload: Any,
        implementation: str,
        repeats: int,
        backend: str = "tensorflow",
        form: str | None = None,
        options: dict | None = None,
        gpu: bool = False,
    ):
        environment = {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        if gpu:
            environment |= gpu_environment()
        else:
            environment |= {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
        spawn = multiprocessing.get_context("spawn")
        self._name = implementation
        self._connection, theirs = spawn.Pipe()
        memory = backend if gpu else ""
        task = (workload, implementation, repeats, form, options or {}, memory)
        self._process = spawn.Process(target=_serve, args=(theirs, environment, *task), daemon=True)

    def __enter__(self):
        self._process.start()
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.join()

    def take(self, seconds: float = float("inf")) -> dict:
        """Measures once more.

        Args:
            seconds: How long that may take. Defaults to as long as it does.

        Returns:
            `FIGURES`, of memory the peak so far; the first time also `"magnitude"` and
            `"step_magnitude"`, the sums of the mean magnitudes of what the forward pass and the
            training step return, and `"version"`.

        Raises:
            RuntimeError: If the process fails.
            TimeoutError: If it takes longer.
        """
        end = time.monotonic() + seconds
        self._connection.send("measure")
        while not self._connection.poll(0.1):
            if not self._process.is_alive():
                raise RuntimeError(f"{self._name}: exit status {self._process.exitcode}")
            if time.monotonic() > end:
                raise TimeoutError(f"{self._name}: not measured in {seconds:.0f} seconds")
        answer = self._connection.recv()
        if "error" in answer:
            raise RuntimeError(f"{self._name} failed: {answer['error']}")
        return answer


def gpu_environment() -> dict[str, str]:
    """Returns the variables with which JAX and TensorFlow take no more GPU memory than needed."""
    return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def gpu_name() -> str:
    """Returns what NVIDIA's driver calls the first GPU.

    Raises:
        ValueError: If there is none.
    """
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        return found.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise ValueError(f"--gpu: nvidia-smi finds no GPU ({error}).") from None


def magnitude(arrays: Iterable | None) -> float:
    """Returns the sum of the mean magnitudes of arrays of any framework and dtype, NaN with NaN."""
    total = 0.0
    for array in () if arrays is None else arrays:
        if hasattr(array, "detach"):  # NumPy reads no PyTorch tensor that is on a GPU or bfloat16
            array = array.detach().cpu().float()
        total += np.abs(np.asarray(array).astype("float64")).mean()
    return float(total)


def _serve(connection, environment, workload, implementation, repeats, form, options, gpu):
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
            measurements = _measurements(*calls, repeats, gpu)
            next(measurements)  # the memory of the built model
            while connection.recv():
                connection.send(next(measurements))
    except Exception as error:
        connection.send({"error": f"{type(error).__name__}: {error}"})


def _measurements(forward, step, version, repeats, gpu):
    """What is measured when it is asked for: more the first time."""
    memory = PeakMemory(gpu)
    yield
    found = {"version": version}
    found["first_forward_s"], outputs = _timed(forward)
    found["magnitude"] = magnitude(outputs)
    del outputs
    found["forward_s"] = _median(forward, repeats)
    found["first_step_s"], gradients = _timed(step)
    found["step_magnitude"] = magnitude(gradients)
    del gradients
    while True:
        found["step_s"] = _median(step, repeats)
        found["peak_mib"] = memory.mib()
        yield found
        found = {"forward_s": _median(forward, repeats)}


def _timed(function):
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def _median(function, repeats):
    return statistics.median(_timed(function)[0] for _ in range(repeats))
