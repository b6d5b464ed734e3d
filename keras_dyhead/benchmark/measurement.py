"""A process that measures one implementation, as seen from outside."""

import dataclasses
import tempfile
from pathlib import Path

from keras_dyhead.benchmark.workload import Workload
from keras_dyhead.json_process import JsonProcess


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
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (`__exit__` closes it)
        environment = {
            "KERAS_BACKEND": backend,
            "CUDA_VISIBLE_DEVICES": "",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        program = Path(__file__).with_name("worker.py")
        self._process = JsonProcess([program], environment, self._errors)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.close()
        self._errors.close()

    def take(self) -> dict:
        """Measures once more.

        Returns:
            Dict with `"forward_s"`, `"step_s"` and `"peak_mib"`, of the process so far, and the
            first time `"first_forward_s"`, `"first_step_s"`, `"magnitude"` and `"version"`.

        Raises:
            RuntimeError: If the process fails: with the last lines it wrote.
        """
        try:
            return self._process.ask(self._task)
        except ChildProcessError as error:
            self._errors.seek(0)
            last = "\n".join(self._errors.read().strip().splitlines()[-3:])
            name = self._task["implementation"]
            raise RuntimeError(f"{name} failed ({error}):\n{last}") from None
