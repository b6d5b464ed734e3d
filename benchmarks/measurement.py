"""Time and memory of one implementation in a separate process."""

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
"""Measured quantities; memory in MiB above that of the built model."""


class Measurement:
    """Measures one implementation on demand.

    Args:
        workload: What to compute; passed to the implementation.
        implementation: Path below `benchmarks` of a function, such as
            `"sampling.torch_peer.torchvision_op"`, that returns a forward pass, a training step
            and the versions used. Both return arrays or `None` after everything is computed.
        repeats: Timed calls per measurement, of which the median is taken.
        backend: Keras backend, or the framework of a peer. Defaults to `"tensorflow"`.
        form: Sampling form, `"sparse"` or `"gather"`. `None` (default) lets the package choose.
        options: Further arguments of the implementation.
        gpu: Whether to compute on the GPU and measure its memory.
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
            seconds: Time limit. Defaults to no limit.

        Returns:
            The keys of `FIGURES`, with the peak memory so far. The first time also `"magnitude"`
            and `"step_magnitude"`, the sums of the mean magnitudes of the outputs of the forward
            pass and the training step, and `"version"`.

        Raises:
            RuntimeError: If the process fails.
            TimeoutError: If the time limit is exceeded.
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
    """Returns environment variables that keep JAX and TensorFlow from reserving GPU memory."""
    return {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def gpu_name() -> str:
    """Returns the name of the first GPU according to NVIDIA's driver.

    Raises:
        ValueError: If no GPU is found.
    """
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        return found.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise ValueError(f"--gpu: nvidia-smi finds no GPU ({error}).") from None


def magnitude(arrays: Iterable | None) -> float:
    """Returns the sum of the mean magnitudes of arrays of any framework and dtype."""
    total = 0.0
    for array in () if arrays is None else arrays:
        if hasattr(array, "detach"):  # NumPy cannot read PyTorch tensors on a GPU or in bfloat16
            array = array.detach().cpu().float()
        total += np.abs(np.asarray(array).astype("float64")).mean()
    return float(total)


def _serve(connection, environment, workload, implementation, repeats, form, options, gpu):
    """Answers every message with the figures of one measurement."""
    os.environ.update(environment)
    try:
        # Import Keras and TensorFlow only if needed: they would count as memory of the peer.
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
    """Yields the figures of each measurement; the first has additional ones."""
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
