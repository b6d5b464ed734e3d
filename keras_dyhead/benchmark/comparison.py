"""Our sampler and tower beside the peer's, in one run."""

import dataclasses
import os
import platform
from collections.abc import Callable

from keras_dyhead.benchmark.measurement import Measurement
from keras_dyhead.benchmark.workload import Workload

BACKENDS = ("tensorflow", "jax", "torch")
PEERS = ("torchvision", "none")
FIGURES = {
    "forward_s": "forward",
    "step_s": "forward + backward",
    "first_forward_s": "first forward",
    "first_step_s": "first training step",
    "peak_mib": "peak memory",
}
OURS = "keras_dyhead"
SPARSE = f"{OURS}, sparse products"
TOLERANCE = 1e-4  # relative, of the mean magnitudes of the outputs


def compare(
    workload: Workload,
    backend: str = "tensorflow",
    peer: str = "torchvision",
    repeats: int = 5,
    progress: Callable[[str], None] = lambda _: None,
    parts: tuple[str, ...] = ("op", "tower"),
) -> dict:
    """Measures every implementation in a process of its own, one after another, on the CPU.

    Args:
        workload: What to compute.
        backend: Keras backend of ours, `"tensorflow"`, `"jax"` or `"torch"`. Defaults to
            `"tensorflow"`.
        peer: `"torchvision"`, or `"none"` to measure ours alone. Defaults to `"torchvision"`.
        repeats: Counted calls, of which the median is taken. Defaults to 5.
        progress: Called with the name of each implementation before it runs.
        parts: `"op"`, `"tower"` or both. Defaults to both.

    Returns:
        Dict of the settings and, under `"results"`, the figures by implementation.

    Raises:
        ValueError: If an argument is not one of those above, or the peer is not installed.
        RuntimeError: If an implementation fails, or two do not compute the same.
    """
    for name, value, allowed in (("backend", backend, BACKENDS), ("peer", peer, PEERS)):
        if value not in allowed:
            raise ValueError(f"`{name}` must be one of {allowed}. Received: {value!r}")
    results = {}
    for name, task in tasks(backend, peer, parts).items():
        progress(name)
        with Measurement(workload, repeats=repeats, **task) as measurement:
            results[name] = measurement.take()
        _check_same(name, results)
    return {
        "workload": dataclasses.asdict(workload),
        "backend": backend,
        "repeats": repeats,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "results": results,
    }


def tasks(backend: str, peer: str, parts: tuple[str, ...] = ("op", "tower")) -> dict[str, dict]:
    """Returns what is to be measured: arguments of `Measurement` by the name of the table's row."""
    found = {}
    for part in parts:
        if peer != "none":
            found[f"{part}: {peer}"] = {"implementation": f"{peer}_{part}"}
        ours = {"implementation": f"keras_{part}", "backend": backend}
        found[f"{part}: {OURS}"] = ours
        if backend == "tensorflow":
            found[f"{part}: {SPARSE}"] = ours | {"sparse": True}
            found[f"{part}: {OURS}, XLA"] = ours | {"options": {"xla": True}}
        if part == "op":
            found["op: matrix products alone"] = {"implementation": "gemm", "backend": backend}
        else:
            paper = ours | {"implementation": "keras_tower_paper"}
            found[f"tower: {OURS}, paper alignment"] = paper
            if backend == "tensorflow":
                found[f"tower: {SPARSE}, paper alignment"] = paper | {"sparse": True}
    return found


def markdown(report: dict) -> str:
    """Writes a report of `compare` as a table.

    Figures of a row are followed by the peer's over them: larger than 1 is better than the peer.
    """
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
    peers = {name.split(":")[0]: row for name, row in results.items() if _is_peer(name)}
    if peers:
        lines[-1] += " In brackets: torchvision's figure over the row's."
    lines += ["", f"| | {' | '.join(FIGURES.values())} |", "|---" * (1 + len(FIGURES)) + "|"]
    for name, row in results.items():
        peer = peers.get(name.split(":")[0])
        cells = []
        for figure in FIGURES:
            value = row[figure]
            text = f"{value:.0f} MiB" if figure == "peak_mib" else f"{1e3 * value:.0f} ms"
            ratio = f" ({peer[figure] / max(value, 1e-9):.1f}x)" if peer else ""
            cells.append(text + ratio)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _is_peer(name):
    return name.split(": ")[1] in PEERS


def _check_same(name, results):
    """Times of implementations that compute different things are no comparison."""
    part, what = name.split(": ")
    first = next(row for other, row in results.items() if other.startswith(part))
    if "paper" in what or "alone" in what:
        return
    ours, theirs = results[name]["magnitude"], first["magnitude"]
    if not abs(ours - theirs) <= TOLERANCE * abs(theirs):
        raise RuntimeError(f"{name}: outputs differ, mean magnitudes are {ours} and {theirs}")
