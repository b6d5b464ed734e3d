"""Our sampler and tower beside torchvision's, in one run."""

import dataclasses
import os
import platform
from collections.abc import Callable

from benchmarks.measurement import FIGURES, Measurement
from benchmarks.sampling.workload import Workload

PEER = "torchvision"
_TOLERANCE = 1e-4  # relative, of the mean magnitudes of the outputs


def tasks(backend: str, peer: bool, part: str) -> dict[str, dict]:
    """Returns what is measured: arguments of `Measurement` by the name of the table's row.

    Args:
        backend: Keras backend of ours.
        peer: Whether torchvision is measured, too.
        part: `"op"` or `"tower"`.
    """
    ours = {"implementation": f"sampling.implementations.keras_{part}", "backend": backend}
    paper = {"options": {"alignment": "paper"}}
    found = {PEER: {"implementation": f"sampling.torch_peer.torchvision_{part}"}} if peer else {}
    found["keras_dyhead"] = ours
    if backend == "tensorflow":
        found["keras_dyhead, gathers"] = ours | {"form": "gather"}
        found["keras_dyhead, XLA"] = ours | {"options": {"xla": True}}
    if part == "op":
        products = {"implementation": "sampling.implementations.matrix_products"}
        found["matrix products alone"] = ours | products
    else:
        found["keras_dyhead, paper alignment"] = ours | paper
        if backend == "tensorflow":
            gathers = ours | paper | {"form": "gather"}
            found["keras_dyhead, gathers, paper alignment"] = gathers
    return {f"{part}: {name}": task for name, task in found.items()}


def compare(
    workload: Workload,
    backend: str = "tensorflow",
    peer: bool = True,
    repeats: int = 5,
    parts: tuple[str, ...] = ("op", "tower"),
    progress: Callable[[str], None] = lambda _: None,
) -> dict:
    """Measures every implementation in a process of its own, one after another.

    Args:
        workload: What to compute.
        backend: Keras backend of ours.
        peer: Whether to measure torchvision, too.
        repeats: Counted calls, of which the median is taken.
        parts: `"op"`, `"tower"` or both.
        progress: Called with the name of each implementation before it runs.

    Returns:
        Dict of the settings and, under `"results"`, the figures by implementation.

    Raises:
        RuntimeError: If an implementation fails, or two do not compute the same.
    """
    results = {}
    for part in parts:
        first = None
        for name, task in tasks(backend, peer, part).items():
            progress(name)
            with Measurement(workload, repeats=repeats, **task) as measurement:
                results[name] = measurement.take()
            found = results[name]["magnitude"]
            first = first or found
            another = "paper" in name or "alone" in name
            if not (another or abs(found - first) <= _TOLERANCE * abs(first)):
                raise RuntimeError(f"{name}: outputs differ, mean magnitudes {found} and {first}")
    return {
        "workload": dataclasses.asdict(workload),
        "backend": backend,
        "repeats": repeats,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "results": results,
    }


def markdown(report: dict) -> str:
    """Writes a report of `compare` as a table, the peer's figures over each row's in brackets."""
    workload, results = Workload(**report["workload"]), report["results"]
    height, width = workload.map_size(3)
    versions = dict.fromkeys(result["version"] for result in results.values())
    lines = [
        f"Operation: {height}x{width}x{workload.channels}, 3x3. Tower: {workload.blocks} blocks, "
        f"{workload.channels} channels, five levels of a {workload.height}x{workload.width} image. "
        f"Batch {workload.batch}, float32, {report['cores']} CPU cores, "
        f"Python {report['python']}, {', '.join(versions)}.",
        f"Median of {report['repeats']}, one run.",
    ]
    peers = {name.split(":")[0]: row for name, row in results.items() if name.endswith(PEER)}
    if peers:
        lines[-1] += " In brackets: torchvision's figure over the row's."
    lines += ["", f"| | {' | '.join(FIGURES.values())} |", "|---" * (1 + len(FIGURES)) + "|"]
    for name, row in results.items():
        peer = peers.get(name.split(":")[0])
        cells = []
        for figure in FIGURES:
            value = row[figure]
            text = f"{value:.0f} MiB" if figure == "peak_mib" else f"{1e3 * value:.0f} ms"
            cells.append(text + (f" ({peer[figure] / max(value, 1e-9):.1f}x)" if peer else ""))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
