"""Runs the trainings of a study that are not finished yet, in processes side by side."""

import concurrent.futures
import dataclasses
import os
import queue
import statistics
from collections.abc import Callable, Iterable, Sequence

from keras_dyhead.study.folder import StudyFolder
from keras_dyhead.study.plan import BACKBONE_WEIGHTS, Configuration
from keras_dyhead.study.worker import Worker

Trial = tuple[Configuration, int]


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a study is.

    Args:
        finished: Trainings finished, those of earlier runs too.
        total: Trainings of the study.
        remaining: Estimate of the seconds left, or `None` before any training is finished.
        latest: What was finished last.

    Example:

    >>> progress = Progress(finished=3, total=12, remaining=540.0)
    >>> f"{progress.finished} of {progress.total}, {progress.remaining / 60:.0f} minutes left"
    '3 of 12, 9 minutes left'
    """

    finished: int
    total: int
    remaining: float | None = None
    latest: str = ""


def run_study(
    planned: Sequence[Trial],
    folder: StudyFolder,
    workers: int | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> dict[str, str]:
    """Runs the trainings that the folder lacks, after drawing and pretraining what they share.

    Each worker is a process that runs one training after another, so that TensorFlow starts once;
    it computes with its share of the cores.

    Args:
        planned: Configurations with their seeds, in the order to run them in.
        folder: Where results go.
        workers: Number of processes. Defaults to `None`, one for each core.
        progress: Called at the beginning and after each training.

    Returns:
        The errors of trainings that failed, by name. All others are finished.

    Raises:
        RuntimeError: If the backbone could not be pretrained.

    Example:

    >>> folder = StudyFolder("runs/study", StudySettings())  # doctest: +SKIP (takes hours)
    >>> tables = plan_tables(only=["detectors"])  # doctest: +SKIP (takes hours)
    >>> run_study(trials(tables, seeds=3), folder)  # doctest: +SKIP (takes hours)
    {}
    """
    folder.prepare()
    cores = os.cpu_count() or 1
    workers = workers or cores
    left, seconds = [], {}
    for trial in planned:
        if result := folder.load(*trial):
            seconds.setdefault(trial[0], []).append(result["seconds"]["all"])
        else:
            left.append(trial)

    def tell(latest=""):
        finished = len(planned) - len(left) - len(failures)
        remaining = estimate_seconds(left, seconds, workers)
        progress(Progress(finished, len(planned), remaining, latest))

    if left and folder.settings.pretraining and not (folder.data / BACKBONE_WEIGHTS).exists():
        process = Worker(cores, folder.path / "pretraining.log")
        try:
            process.run(settings=folder.settings, data=folder.data)
        finally:
            process.close()
    idle = queue.SimpleQueue()
    processes = [
        Worker(max(1, cores // workers), folder.path / f"worker-{number}.log")
        for number in range(min(workers, len(left)))
    ]
    for process in processes:
        idle.put(process)

    def run(configuration, seed):
        process = idle.get()
        try:
            return process.run(
                configuration=configuration, seed=seed, settings=folder.settings, data=folder.data
            )
        finally:
            idle.put(process)

    failures = {}
    tell()
    with concurrent.futures.ThreadPoolExecutor(max(1, len(processes))) as threads:
        try:
            futures = {threads.submit(run, *trial): trial for trial in left}
            for future in concurrent.futures.as_completed(futures):
                trial = futures[future]
                left.remove(trial)
                name = f"{trial[0].name}, seed {trial[1]}"
                try:
                    result = future.result()
                except RuntimeError as error:
                    failures[name] = str(error)
                else:
                    folder.save(*trial, result)
                    seconds.setdefault(trial[0], []).append(result["seconds"]["all"])
                tell(name)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.close()
    return failures


def estimate_seconds(
    left: Iterable[Trial], seconds: dict[Configuration, list[float]], workers: int
) -> float | None:
    """Estimates how long trainings will take from how long others took.

    A training takes as long as those of its configuration with other seeds, where there are any,
    otherwise as long as the mean of all.

    Args:
        left: The trainings to come.
        seconds: What those of each configuration took.
        workers: How many run at a time.

    Example:

    >>> atss, fcos = Configuration("atss"), Configuration("fcos")
    >>> estimate_seconds([(atss, 1), (fcos, 0)], {atss: [60.0]}, workers=2)
    60.0
    """
    if not seconds:
        return None
    mean = {configuration: statistics.fmean(values) for configuration, values in seconds.items()}
    overall = statistics.fmean(mean.values())
    return sum(mean.get(configuration, overall) for configuration, _ in left) / workers
