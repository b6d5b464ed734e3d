"""A process that measures one implementation, as seen from outside."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from keras_dyhead.benchmark.workload import Workload


class Measurement:
    """Measures one implementation in a process of its own, as often as it is asked.

    The process starts with the first measurement; between two it waits.

    Args:
        workload: What to compute.
        implementation: Name of a function of `benchmark.implementations` or `torch_peer`.
        repeats: Counted calls of one measurement, of which the median is taken.
        backend: Keras backend. Defaults to `"tensorflow"`.
        sparse: Whether to sample by sparse products. Defaults to `False`.
        options: Further arguments of the implementation.

    Example:

    >>> with Measurement(Workload(64, 64, channels=16), "keras_op", repeats=2) as measurement:
    ...     figures = measurement.take()
    >>> figures["step_s"] < figures["first_step_s"]
    True
    """

    def __init__(
        self,
        workload: Workload,
        implementation: str,
        repeats: int,
        backend: str = "tensorflow",
        sparse: bool = False,
        options: dict | None = None,
    ):
        self._task = {
            "workload": dataclasses.asdict(workload),
            "implementation": implementation,
            "repeats": repeats,
            "sparse": sparse,
            "options": options or {},
        }
        self._backend = backend
        self._process = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (`__exit__` closes it)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._errors.close()

    def take(self) -> dict:
        """Measures once more.

        Returns:
            Dict with `"forward_s"`, `"step_s"` and `"peak_mib"`, of the process so far, and the
            first time `"first_forward_s"`, `"first_step_s"`, `"magnitude"` and `"version"`.

        Raises:
            RuntimeError: If the process fails: with the last lines it wrote.
        """
        if self._process is None:
            self._process = self._start()
        try:
            self._process.stdin.write(json.dumps(self._task) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            status = self._process.wait()
            self._errors.seek(0)
            last = "\n".join(self._errors.read().strip().splitlines()[-3:])
            name = self._task["implementation"]
            raise RuntimeError(f"{name} failed (exit status {status}):\n{last}")
        return json.loads(answer)

    def _start(self):
        return subprocess.Popen(
            [sys.executable, Path(__file__).with_name("worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ
            | {
                "KERAS_BACKEND": self._backend,
                "CUDA_VISIBLE_DEVICES": "",
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
        )
