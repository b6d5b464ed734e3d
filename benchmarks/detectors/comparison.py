"""Costs of detectors, in one run."""

import contextlib
import dataclasses
import os
import platform
import statistics
import textwrap
from collections.abc import Callable, Sequence

from benchmarks.detectors.workload import Workload
from benchmarks.measurement import Measurement

# Those that torchvision has, and the number of layers that stand before its predictions.
PEERS = {"fcos": 4, "retinanet": 4, "faster-rcnn": 2}
PEER, OURS = "torchvision", "without, as torchvision"


def compare(
    workload: Workload,
    names: Sequence[str],
    blocks: Sequence[int],
    rounds: int = 5,
    peer: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> dict:
    """Measures detectors without and with DyHead, and beside torchvision's.

    All models of a detector are measured in turn, round by round, so that a machine that is slow
    for a while slows all of them.

    Args:
        workload: What to compute.
        names: Of `keras_dyhead.detectors.DETECTORS`.
        blocks: Numbers of DyHead blocks; 0 is measured in any case.
        rounds: Times that each model is measured; the median counts.
        peer: Whether to measure torchvision, too.
        progress: Called with a description before every measurement.

    Returns:
        Dict of the settings and, under `"costs"`, one dict for each row of the table.
    """
    costs, versions = [], {}
    for name in names:
        tasks = {}
        if peer and name in PEERS:
            tasks[PEER] = "detectors.torch_peer.torchvision_detector", {"name": name}
            options = {"name": name, "blocks": 0, "head_layers": PEERS[name]}
            tasks[OURS] = "detectors.implementations.keras_detector", options
        for number in sorted({0, *blocks}):
            options = {"name": name, "blocks": number}
            tasks[str(number)] = "detectors.implementations.keras_detector", options
        found = _measure(workload, name, tasks, rounds, progress)
        for row, (implementation, options) in tasks.items():
            versions[found[row].pop("version")] = None
            counted = {}
            if "torch" not in implementation:
                progress(f"counting {name}, {row}")
                counted = _count(workload, options)
            costs.append({"detector": name, "dyhead": row} | counted | found[row])
    return {
        "workload": dataclasses.asdict(workload),
        "rounds": rounds,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": list(versions),
        "costs": costs,
    }


def _measure(workload, name, tasks, rounds, progress) -> dict[str, dict]:
    """Medians of the figures of every task, each in a process of its own."""
    taken = {row: [] for row in tasks}
    with contextlib.ExitStack() as stack:
        measurements = {
            row: stack.enter_context(Measurement(workload, implementation, 1, options=options))
            for row, (implementation, options) in tasks.items()
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
    """Writes a report of `compare` as a table with a line about how it was made."""
    workload = Workload(**report["workload"])
    text = (
        f"{workload.backbone}, {workload.channels} channels, {workload.num_classes} classes, "
        f"{workload.height}x{workload.width}, batch {workload.batch}, float32, random weights. "
        "GFLOPs: a billion multiply-adds of convolutions and matrix products (a multiplication "
        "with its addition counts as one). Prediction: from a preprocessed image to its "
        f"detections. Medians of {report['rounds']}, one run, {report['cores']} CPU cores "
        f"({report['machine']}), {', '.join(report['versions'])}. In brackets: over the figure of "
        "the same detector without DyHead."
    )
    if any(cost.get("uncounted") for cost in report["costs"]):
        text += " `>`: products of a size that depends on the image are left out."
    rows = {(cost["detector"], cost["dyhead"]): cost for cost in report["costs"]}
    if any(row == PEER for _, row in rows):
        text += (
            f" *{OURS}*: with the layers that torchvision's has before the predictions; in "
            "brackets, torchvision's figure over ours."
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
