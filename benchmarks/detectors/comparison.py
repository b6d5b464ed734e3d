"""Measures the cost of detectors."""

import contextlib
import dataclasses
import os
import platform
import statistics
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.detectors.workload import Workload
from benchmarks.measurement import Measurement
from benchmarks.runner import remember

# Detectors of torchvision, with their number of layers before the predictions.
PEERS = {"fcos": 4, "retinanet": 4, "faster-rcnn": 2}
PEER, OURS = "torchvision", "without, as torchvision"


@dataclasses.dataclass(frozen=True)
class Task(Workload):
    """A detector and its measurements, for `benchmarks.runner.remember`.

    Args:
        detector: One of `keras_dyhead.detectors.DETECTORS`.
        blocks: Numbers of DyHead blocks.
        rounds: Number of measurements per model.
        peer: Whether to measure torchvision's detector, too.
    """

    detector: str = "atss"
    blocks: tuple[int, ...] = (0,)
    rounds: int = 5
    peer: bool = True

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "blocks", tuple(self.blocks))


def compare(
    workload: Workload,
    names: Sequence[str],
    blocks: Sequence[int],
    rounds: int = 5,
    peer: bool = True,
    unfinished: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict:
    """Measures detectors with and without DyHead, and torchvision's.

    All models of a detector are measured in turn, round by round, so that a temporary slowdown of
    the machine affects all of them.

    Args:
        workload: What to compute.
        names: Detectors of `keras_dyhead.detectors.DETECTORS`.
        blocks: Numbers of DyHead blocks; 0 is always measured.
        rounds: Number of measurements per model, of which the median is taken.
        peer: Whether to measure torchvision, too.
        unfinished: JSONL file with the finished detectors, read and written.
        progress: Called with a description before every measurement.

    Returns:
        Dict of the settings and, under `"costs"`, one dict per table row.
    """
    blocks, fields = tuple(sorted({0, *blocks})), dataclasses.asdict(workload)
    tasks = [
        Task(**fields, detector=name, blocks=blocks, rounds=rounds, peer=peer) for name in names
    ]
    lines = [
        remember(unfinished, task, lambda task=task: _costs(task, workload, progress))
        for task in tasks
    ]
    return {
        "workload": fields,
        "rounds": rounds,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": list(dict.fromkeys(v for line in lines for v in line["versions"])),
        "costs": [row for line in lines for row in line["costs"]],
    }


def _costs(task, workload, progress) -> dict:
    """Returns the rows of a detector and the package versions."""
    name, models = task.detector, {}
    if task.peer and name in PEERS:
        models[PEER] = "detectors.torch_peer.torchvision_detector", {"name": name}
        options = {"name": name, "blocks": 0, "head_layers": PEERS[name]}
        models[OURS] = "detectors.implementations.keras_detector", options
    for number in task.blocks:
        options = {"name": name, "blocks": number}
        models[str(number)] = "detectors.implementations.keras_detector", options
    found = _measure(workload, name, models, task.rounds, progress)
    versions = list(dict.fromkeys(figures.pop("version") for figures in found.values()))
    costs = []
    for row, (implementation, options) in models.items():
        counted = {}
        if "torch" not in implementation:
            progress(f"counting {name}, {row}")
            counted = _count(workload, options)
        costs.append({"detector": name, "dyhead": row} | counted | found[row])
    return {"versions": versions, "costs": costs}


def _measure(workload, name, models, rounds, progress) -> dict[str, dict]:
    """Returns the median figures of every model, each measured in a separate process."""
    taken = {row: [] for row in models}
    with contextlib.ExitStack() as stack:
        measurements = {
            row: stack.enter_context(Measurement(workload, implementation, 1, options=options))
            for row, (implementation, options) in models.items()
        }
        for number in range(rounds):
            for row, measurement in measurements.items():
                progress(f"measuring {name}, {row}, round {number + 1} of {rounds}")
                taken[row].append(measurement.take())
    return {
        row: {"version": found[0]["version"], "peak_mib": found[-1]["peak_mib"]}
        | {key: statistics.median(f[key] for f in found) for key in ("forward_s", "step_s")}
        for row, found in taken.items()
    }


def _count(workload, options) -> dict:
    from benchmarks.detectors.implementations import build, detection
    from benchmarks.detectors.multiply_adds import count_multiply_adds

    model = build(workload, **options)
    size = (workload.height, workload.width)
    multiply_adds, uncounted = count_multiply_adds(detection(model), size)
    return {
        "parameters": model.count_params(),
        "multiply_adds": multiply_adds,
        "uncounted": uncounted,
    }


def markdown(report: dict) -> str:
    """Returns a report of `compare` as a table with an introduction."""
    workload = Workload(**report["workload"])
    text = (
        f"{workload.backbone}, {workload.channels} channels, {workload.num_classes} classes, "
        f"{workload.height}x{workload.width}, batch {workload.batch}, float32, random weights. "
        "GFLOPs counts the multiply-adds of convolutions and matrix products in billions, a "
        "multiplication and its addition as one. Prediction runs from a preprocessed image to "
        f"detections. Medians of {report['rounds']}, one run, {report['cores']} CPU cores "
        f"({report['machine']}), {', '.join(report['versions'])}. Ratios in parentheses are to the "
        "same detector without DyHead."
    )
    if any(cost.get("uncounted") for cost in report["costs"]):
        text += (
            " `>` marks a lower bound: products whose size depends on the image are not counted."
        )
    rows = {(cost["detector"], cost["dyhead"]): cost for cost in report["costs"]}
    if any(row == PEER for _, row in rows):
        text += (
            f" *{OURS}* has the same head layers as torchvision's detector; its ratios are "
            "torchvision's time divided by ours, so ours is faster above 1."
        )
    lines = [
        *textwrap.wrap(text, 100),
        "",
        "| detector | DyHead blocks | parameters | GFLOPs | prediction | training step | memory |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for (name, row), cost in rows.items():
        base, sign = (rows[name, PEER], -1) if row == OURS else (rows[name, "0"], 1)
        cells = ["", ""]
        if "parameters" in cost:
            at_least = "> " if cost["uncounted"] else ""
            cells = [
                f"{cost['parameters'] / 1e6:.1f} M",
                f"{at_least}{cost['multiply_adds'] / 1e9:.1f}",
            ]
        for figure, unit, scale in (("forward_s", "ms", 1e3), ("step_s", "ms", 1e3)):
            ratio = "" if row == PEER else f" ({(cost[figure] / base[figure]) ** sign:.2f}x)"
            cells.append(f"{scale * cost[figure]:.0f} {unit}{ratio}")
        cells.append(f"{cost['peak_mib']:.0f} MiB")
        lines.append(f"| {name} | {row} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
