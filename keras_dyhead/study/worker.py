"""A process that runs trainings one after another, and its other end.

It reads one JSON object per line, answers each with one, and ends with its input.
"""

import dataclasses
import json
import os
import sys
import traceback
from pathlib import Path

from keras_dyhead.json_process import JsonProcess
from keras_dyhead.study.plan import Configuration, StudySettings


class Worker:
    """The process as seen from outside. It starts with its first training, and after a crash.

    Args:
        threads: Threads that TensorFlow computes with.
        log: File that the process's messages are appended to.
    """

    def __init__(self, threads: int, log: Path):
        environment = {
            "TF_NUM_INTRAOP_THREADS": str(threads),
            "TF_NUM_INTEROP_THREADS": str(threads),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # several share a GPU
        }
        self._log = open(log, "a", encoding="utf-8")  # noqa: SIM115 (`close` closes it)
        program = f"from {__name__} import main; main()"
        self._process = JsonProcess(["-c", program], environment, self._log)

    def run(self, **task) -> dict:
        """Has a training run.

        Args:
            **task: Arguments of `run_trial`, or, without a configuration, of `pretrain_backbone`.

        Raises:
            RuntimeError: If the training fails or the process dies.
        """
        try:
            answer = self._process.ask(_to_dict(task))
        except ChildProcessError as error:
            raise RuntimeError(f"the process ended, {error}, see {self._log.name}") from None
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.close()
        self._log.close()


def _to_dict(task):
    task = task | {"data": str(task["data"].resolve())}
    return {name: vars(x) if dataclasses.is_dataclass(x) else x for name, x in task.items()}


def _from_json(line):
    task = json.loads(line)
    task |= {"settings": StudySettings(**task["settings"]), "data": Path(task["data"])}
    if "configuration" in task:
        task["configuration"] = Configuration(**task["configuration"])
    return task


def main() -> None:
    """Answers every line of the input."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    from keras_dyhead.study.pretraining import pretrain_backbone
    from keras_dyhead.study.trial import run_trial

    for line in sys.stdin:
        try:
            task = _from_json(line)
            answer = run_trial(**task) if "configuration" in task else pretrain_backbone(**task)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)
