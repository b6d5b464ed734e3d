"""Measures one implementation in a process of its own: `python worker.py`, by its path.

Reads one JSON object, the task, from the first line of the standard input; answers every line with
the figures of one measurement, as JSON.
"""

import contextlib
import importlib
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

OURS = "keras_dyhead.benchmark.implementations"
PEERS = ("torchvision_op", "torchvision_tower")


def main() -> None:
    """Measures what the first line of the input asks for, once for every line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    from workload import Workload  # beside this file: a peer runs without the package

    task = json.loads(sys.stdin.readline())
    module = "torch_peer" if task["implementation"] in PEERS else OURS
    implementation = getattr(importlib.import_module(module), task["implementation"])
    with contextlib.ExitStack() as stack:
        if task.get("sparse"):
            from keras_dyhead.ops import sparse_sampling

            stack.enter_context(sparse_sampling())
        calls = implementation(Workload(**task["workload"]), **task["options"])
        for figures in measurements(*calls, task["repeats"]):
            print(json.dumps(figures), file=answers, flush=True)
            if not sys.stdin.readline():
                break


def measurements(forward, step, version: str, repeats: int) -> Iterator[dict]:
    """Times first and later calls, and finds the peak memory above that of the built model.

    Args:
        forward: Callable that returns NumPy arrays.
        step: Callable.
        version: What is at work.
        repeats: Counted calls of each in a measurement, whose median is taken.
    """
    before = forget_peak_memory()
    result = {"version": version}
    result["first_forward_s"], outputs = timed(forward)
    result["magnitude"] = float(sum(np.abs(o).mean(dtype="float64") for o in outputs))
    del outputs
    result["forward_s"] = statistics.median(timed(forward)[0] for _ in range(repeats))
    result["first_step_s"], _ = timed(step)
    while True:
        result["step_s"] = statistics.median(timed(step)[0] for _ in range(repeats))
        result["peak_mib"] = peak_memory() - before
        yield result
        result = {"forward_s": statistics.median(timed(forward)[0] for _ in range(repeats))}


def timed(function):
    """Returns seconds and result of a call."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def forget_peak_memory() -> float:
    """Returns the resident memory in MiB; `peak_memory` counts from here on.

    Elsewhere than on Linux it returns the largest so far, which cannot be forgotten.
    """
    if platform.system() != "Linux":
        return peak_memory()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_memory() -> float:
    """Returns the largest resident memory, in MiB."""
    if platform.system() == "Linux":
        return _status("VmHWM")
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _status(name):
    """Returns an entry of the kernel's record of this process, which is in KiB, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


if __name__ == "__main__":
    main()
