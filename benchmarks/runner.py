"""Training runs in parallel processes, with one line of a JSONL file per finished run.

A trial is a frozen dataclass with everything that distinguishes a training run, including `seed`.
Its line has the fields of the trial and the results of the run. Missing fields have their defaults,
so you can append lines of other programs by hand.
"""

import dataclasses
import fcntl
import json
import multiprocessing
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from multiprocessing.connection import wait
from pathlib import Path
from typing import Annotated, TypeVar

import typer

Trial = TypeVar("Trial")

HERE = Path(__file__).parent
RUNS = HERE.parent / "runs"
"""Folder for drawn images, ignored by git."""

Seeds = Annotated[int, typer.Option(min=1, help="Training runs per configuration.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Parallel training runs, one thread each.  [one per core]"),
]
OnlyReport = Annotated[bool, typer.Option("--report", help="Only report existing results.")]
Results = Annotated[
    Path | None,
    typer.Option(help="JSONL file to read and append to.  [named after the program]"),
]

_ENVIRONMENT = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # several share a GPU
}


def command() -> typer.Typer:
    """Returns a command line without a command."""
    return typer.Typer(
        add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False
    )


def sides(size: str) -> tuple[int, int]:
    """Parses `SIDE` or `HEIGHTxWIDTH`.

    Raises:
        ValueError: If `size` has another format.

    Example:

    >>> sides("512"), sides("800x1333")
    ((512, 512), (800, 1333))
    """
    height, _, width = size.partition("x")
    if not (height.isdecimal() and (width or height).isdecimal()):
        raise ValueError(f"--size must be SIDE or HEIGHTxWIDTH, such as 512. Received: {size}")
    return int(height), int(width or height)


def read(path: Path, kind: type[Trial]) -> dict[Trial, dict]:
    """Returns the results in a file by trial. The first line of a trial counts.

    Args:
        path: The JSONL file. A missing file has no training runs.
        kind: The class of the trials.

    Raises:
        ValueError: If a line is not a valid trial; the message has its number.
    """
    found = {}
    names = {field.name for field in dataclasses.fields(kind)}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            contents = json.loads(line)
            trial = kind(**{name: contents[name] for name in names & contents.keys()})
            found.setdefault(trial, contents)
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    return found


def append(path: Path, trial: Trial, result: dict) -> None:
    """Appends a line; safe for several processes at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(dataclasses.asdict(trial) | result) + "\n"
    with open(path, "ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if file.tell() and _last_byte(file) != b"\n":  # edited by hand, without a final newline
            line = "\n" + line
        file.write(line.encode())


def remember(path: Path | None, trial: Trial, measure: Callable[[], dict]) -> dict:
    """Returns the line of a trial, and measures and appends it if it is missing.

    Args:
        path: The JSONL file, or `None` to store nothing.
        trial: The trial to measure.
        measure: Function that measures and returns results that JSON can store.
    """
    found = {} if path is None else read(path, type(trial))
    if trial in found:
        return found[trial]
    result = measure()
    if path is not None:
        append(path, trial, result)
    return dataclasses.asdict(trial) | result


def describe(trial: Trial) -> str:
    """Returns the fields of a trial that differ from their defaults."""
    fields = [(field, getattr(trial, field.name)) for field in dataclasses.fields(trial)]
    return " ".join(f"{field.name}={value}" for field, value in fields if value != field.default)


def _print(text):
    print(text, flush=True)


def run(
    trials: Sequence[Trial],
    results: Path,
    train: Callable[[Trial], dict],
    workers: int | None = None,
    cost: Callable[[Trial], float] = lambda trial: 1.0,
    tell: Callable[[str], None] = _print,
) -> list[Trial]:
    """Trains what is missing in a file, each run in a separate process.

    Args:
        trials: All training runs, in the order to run them.
        results: The JSONL file.
        train: Module-level function that trains and returns results that JSON can store.
        workers: Number of parallel processes. Defaults to `None`, one per core.
        cost: Approximate duration of a training run, in any unit.
        tell: Called with a line after every run.

    Returns:
        The runs that failed; their errors are on standard error.
    """
    workers = workers or os.cpu_count() or 1

    def unfinished(trials):
        finished = read(results, type(trials[0])) if trials else {}
        return [trial for trial in trials if trial not in finished]

    left = unfinished(list(dict.fromkeys(trials)))
    tell(f"{len(trials) - len(left)} of {len(trials)} training runs are finished")
    running, failed, start, done = {}, [], time.perf_counter(), 0.0
    spawn = multiprocessing.get_context("spawn")
    try:
        while left or running:
            left = unfinished(left)  # others may append to the file, too
            while left and len(running) < workers:
                trial = left.pop(0)
                process = spawn.Process(target=_work, args=(train, trial, results))
                with _Environment():
                    process.start()
                running[process.sentinel] = process, trial
            for sentinel in wait(list(running)):
                process, trial = running.pop(sentinel)
                process.join()
                if process.exitcode:
                    failed.append(trial)
                done += cost(trial)
                to_come = sum(map(cost, left)) + sum(cost(trial) for _, trial in running.values())
                hours = to_come * (time.perf_counter() - start) / done / 3600
                outcome = "FAILED" if process.exitcode else _outcome(results, trial)
                tell(f"{describe(trial)}: {outcome}; about {hours:.1f} h to go")
    finally:
        for process, _ in running.values():
            process.terminate()
    return failed


def made_with() -> dict:
    """Returns package versions and the commit of this clone."""
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    versions = {name: metadata.version(name) for name in ("keras", "keras-hub", "tensorflow")}
    return {"commit": commit} | versions | {"python": platform.python_version()}


def _work(train, trial, results):
    start = time.perf_counter()
    versions = made_with()
    result = train(trial)
    result |= {"seconds": time.perf_counter() - start, "made_with": versions}
    append(results, trial, result)


def _outcome(results, trial):
    line = read(results, type(trial))[trial]
    return f"AP {100 * line['figures']['AP']:.1f} after {line['seconds'] / 60:.1f} min"


def _last_byte(file):
    file.seek(-1, os.SEEK_END)
    return file.read(1)


class _Environment:
    """Sets `_ENVIRONMENT` for processes started inside."""

    def __enter__(self):
        self._before = dict(os.environ)
        os.environ.update(_ENVIRONMENT)

    def __exit__(self, *_):
        os.environ.clear()
        os.environ.update(self._before)
