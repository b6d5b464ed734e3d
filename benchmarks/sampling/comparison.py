"""Compares our sampler and tower with torchvision's."""

import dataclasses
import math
import os
import platform
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.measurement import FIGURES, Measurement, gpu_name
from benchmarks.runner import remember
from benchmarks.sampling.workload import Workload

PEER = "torchvision"
# Relative tolerances of the mean magnitudes of outputs and input gradients. GPUs round the factors
# of float32 products to TensorFloat-32.
_TOLERANCES = {"float32": 1e-4, "bfloat16": 0.15}
_GPU_TOLERANCES = {"float32": 2e-3, "bfloat16": 0.15}


@dataclasses.dataclass(frozen=True)
class Task(Workload):
    """A row of the table, for `benchmarks.runner.remember`.

    Args:
        name: Name of the implementation, see `tasks`.
        backend: Keras backend, or the framework of the peer.
        device: `"CPU"` or the name of the GPU.
        repeats: Timed calls, of which the median is taken.
    """

    name: str = PEER
    backend: str = "torch"
    device: str = "CPU"
    repeats: int = 5


def tasks(part: str, backend: str, gpu: bool = False) -> dict[str, dict]:
    """Returns the arguments of `Measurement` by name of the implementation.

    Args:
        part: `"op"` or `"tower"`.
        backend: Keras backend, or `"torchvision"` for the peer.
        gpu: Whether they run on a GPU, where TensorFlow has only one form of sampling.
    """
    if backend == PEER:
        implementation = f"sampling.torch_peer.torchvision_{part}"
        return {f"{part}: {PEER}": {"implementation": implementation, "backend": "torch"}}
    ours = {"implementation": f"sampling.implementations.keras_{part}", "backend": backend}
    paper = {"options": {"alignment": "paper"}}
    found = {"keras_dyhead": ours}
    if backend == "tensorflow":
        if not gpu:
            found["keras_dyhead, gathers"] = ours | {"form": "gather"}
        found["keras_dyhead, XLA"] = ours | {"options": {"xla": True}}
    products = {"implementation": "sampling.implementations.matrix_products"}
    found["matrix products alone"] = ours | products | {"options": {"tower": part == "tower"}}
    if part == "tower":
        found["keras_dyhead, paper alignment"] = ours | paper
        if backend == "tensorflow" and not gpu:
            gathers = ours | paper | {"form": "gather"}
            found["keras_dyhead, gathers, paper alignment"] = gathers
    return {f"{part}: {name}": task for name, task in found.items()}


def compare(
    workloads: Sequence[Workload],
    backends: Sequence[str] = ("tensorflow",),
    peer: bool = True,
    parts: Sequence[str] = ("op", "tower"),
    repeats: int = 5,
    gpu: bool = False,
    seconds: float = math.inf,
    unfinished: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict:
    """Measures the implementations one after another, each in a separate process.

    Args:
        workloads: What to compute; the peer is measured only in float32.
        backends: Keras backends of keras_dyhead.
        peer: Whether to measure torchvision, too.
        parts: `"op"`, `"tower"` or both.
        repeats: Timed calls, of which the median is taken.
        gpu: Whether to compute on the GPU.
        seconds: Time limit of all measurements. Defaults to no limit.
        unfinished: JSONL file with the finished rows, read and written.
        progress: Called with each implementation before it runs, and with each failure.

    Returns:
        Dict of the settings, `"results"`, a list of dicts with `Task` and figures, and `"missing"`,
        rows that failed, exceeded the time limit, or computed something else.

    Raises:
        ValueError: If `gpu` is set and no GPU is found.
    """
    end = time.monotonic() + seconds
    device = gpu_name() if gpu else "CPU"
    results, missing, references = [], [], {}
    backends = ((PEER,) if peer else ()) + tuple(backends)
    for task, options in _plan(workloads, backends, parts, device, repeats):

        def measure(task=task, options=options):
            with Measurement(task, repeats=repeats, gpu=gpu, **options) as measurement:
                return measurement.take(end - time.monotonic())

        label = f"{task.name}, {task.backend}, {task.dtype}, {task.height}x{task.width}"
        progress(f"measuring {label}")
        try:
            results.append(remember(unfinished, task, measure))
            _check(results[-1], references, _GPU_TOLERANCES if gpu else _TOLERANCES)
        except (RuntimeError, TimeoutError) as error:
            missing.append(f"{label}: {error}")
            progress(missing[-1])
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "device": device,
        "repeats": repeats,
        "results": results,
        "missing": missing,
    }


def _plan(workloads, backends, parts, device, repeats) -> list[tuple[Task, dict]]:
    """Returns all rows with the arguments of their `Measurement`, the least important last."""
    found = []
    for part in parts:
        for workload in workloads:
            for backend in backends:
                if backend == PEER and workload.dtype != "float32":
                    continue
                for name, options in tasks(part, backend, device != "CPU").items():
                    about = {"backend": options["backend"], "device": device, "repeats": repeats}
                    task = Task(**dataclasses.asdict(workload), name=name, **about)
                    found.append((task, options))
    return sorted(found, key=lambda row: "paper" in row[0].name)


def _check(row, references, tolerances):
    """Compares a row with the first row that computes the same, kept in `references`."""
    kind = next((word for word in ("paper", "alone") if word in row["name"]), "")
    key = row["name"].split(":")[0], kind, row["height"], row["width"]
    first = references.setdefault(key, row)
    for what in ("magnitude", "step_magnitude"):
        found, expected = row[what], first[what]
        if not abs(found - expected) <= tolerances[row["dtype"]] * abs(expected):
            name = {"magnitude": "outputs", "step_magnitude": "gradients"}[what]
            raise RuntimeError(f"{name} differ, mean magnitudes {found} and {expected}")


def markdown(report: dict) -> str:
    """Returns a report of `compare`: a table per size, and missing rows."""
    results = report["results"]
    versions = dict.fromkeys(result["version"] for result in results)
    on_cpu = report["device"] == "CPU"
    device = f"{report['cores']} CPU cores" if on_cpu else report["device"]
    text = f"{device}, Python {report['python']}, {', '.join(versions)}. "
    text += f"Median of {report['repeats']}, one run."
    if not on_cpu:
        text += " Products of float32 in TensorFloat-32."
    if any(result["name"].endswith(PEER) for result in results):
        text += " Ratios in parentheses are torchvision's figure over the row's."
    lines = textwrap.wrap(text, 100)
    sizes = dict.fromkeys(_size(result) for result in results)
    for size in sizes:
        lines += ["", *_table([result for result in results if _size(result) == size])]
    lines += [f"\nMissing or wrong: {what}" for what in report["missing"]]
    return "\n".join(lines) + "\n"


def _size(result):
    return tuple(result[name] for name in ("height", "width", "batch", "blocks", "channels"))


def _table(rows):
    """Returns the table of a size, with a description."""
    fields = {field.name for field in dataclasses.fields(Workload)}
    workload = Workload(**{name: rows[0][name] for name in fields})
    height, width = workload.map_size(3)
    text = (
        f"Operation: {height}x{width}x{workload.channels}, 3x3. Tower: {workload.blocks} blocks, "
        f"{workload.channels} channels, five levels of a {workload.height}x{workload.width} image. "
        f"Batch {workload.batch}."
    )
    lines = [*textwrap.wrap(text, 100), ""]
    lines += [f"| | {' | '.join(FIGURES.values())} |", "|---" * (1 + len(FIGURES)) + "|"]
    several = len({(row["backend"], row["dtype"]) for row in rows if PEER not in row["name"]}) > 1
    peers = {row["name"].split(":")[0]: row for row in rows if row["name"].endswith(PEER)}
    for row in rows:
        peer = peers.get(row["name"].split(":")[0])
        name = row["name"]
        if several and PEER not in name:
            name += f", {row['backend']}, {row['dtype']}"
        cells = [_cell(figure, row[figure], peer and peer[figure]) for figure in FIGURES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _cell(figure, value, peer):
    if figure == "peak_mib":
        text = f"{value:.0f} MiB"
    else:
        text = f"{1e3 * value:.{0 if value >= 0.01 else 2}f} ms"
    return text + (f" ({peer / max(value, 1e-9):.1f}x)" if peer else "")
