"""Training runs and comparisons of the study."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import replace

ATTENTIONS = ("spatial", "scale", "task")
DETECTORS = ("atss", "faster-rcnn", "fcos", "reppoints", "retinanet")
TABLES = {
    "detectors": "Detectors without and with DyHead",
    "attentions": "What each attention adds",
    "alignment": "Alignment of the coarser level",
    "start": "Start of the blocks",
    "length": "More steps",
}
"""Titles of the tables, by name."""

LENGTHS = {"atss": (4,), "retinanet": (4,), "faster-rcnn": (2, 4)}
"""How many times as many steps the detectors of the table `"length"` train for."""

ROUNDS = 10
"""Number of equal parts of a training run whose mean losses are recorded."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """Everything that distinguishes a training run from others.

    Args:
        detector: One of `DETECTORS`.
        num_blocks: Number of DyHead blocks, 0 for none.
        attentions: Attentions of the blocks, among `ATTENTIONS`.
        alignment: `"paper"` or `"published"`, see `DyHeadNeck`.
        start: `"identity"` or `"released"`, see `DyHeadNeck`.
        arrangement: `"released"` or `"paper"`, see `FasterRCNN`.
        head_layers: Layers between the neck and the predictions. Defaults to `None`, as in
            `keras-dyhead train`: one in RetinaNet, two in Faster R-CNN, none in the others.
        seed: Seed of weights and order.
        backbone: SHA-256 of the initial backbone weights. Empty: random weights.
        steps: Optimizer steps, a multiple of `ROUNDS`.
        learning_rate: Peak of the schedule.
        batch_size: Images per step.
        channels: Channels of pyramid, neck and head, a multiple of 16.
        images: Number of drawn training images.
        held_out: Number of drawn evaluation images.
        image_size: Height and width of the images in pixels.

    Raises:
        ValueError: If the detector, an attention or the number of steps is invalid.
    """

    detector: str = "atss"
    num_blocks: int = 0
    attentions: tuple[str, ...] = ATTENTIONS
    alignment: str = "paper"
    start: str = "identity"
    arrangement: str = "released"
    head_layers: int | None = None
    seed: int = 0
    backbone: str = ""
    steps: int = 1600
    learning_rate: float = 2e-3
    batch_size: int = 8
    channels: int = 32
    images: int = 12000
    held_out: int = 400
    image_size: int = 128

    def __post_init__(self):
        object.__setattr__(self, "attentions", tuple(self.attentions))
        if self.detector not in DETECTORS:
            raise ValueError(f"Detectors must be among {DETECTORS}. Received: {self.detector!r}")
        if not set(self.attentions) <= set(ATTENTIONS):
            raise ValueError(f"Attentions must be among {ATTENTIONS}. Received: {self.attentions}")
        if self.steps < ROUNDS or self.steps % ROUNDS:
            raise ValueError(f"`steps` must be a multiple of {ROUNDS}. Received: {self.steps}")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A table row: a training run with any seed, and its baseline or `None`."""

    label: str
    trial: Trial
    baseline: Trial | None = None


def plan_tables(
    only: Iterable[str] = TABLES, detectors: Sequence[str] = DETECTORS
) -> dict[str, list[Comparison]]:
    """Returns the comparisons of the study by table.

    Args:
        only: Names of tables, among `TABLES`. Defaults to all.
        detectors: Detectors of the table `"detectors"`. Defaults to all.

    Raises:
        ValueError: If a table or detector is unknown.

    Example:

    >>> {name: len(rows) for name, rows in plan_tables(["alignment", "length"]).items()}
    {'alignment': 4, 'length': 8}
    """
    only = list(only)
    if unknown := [name for name in only if name not in TABLES]:
        raise ValueError(f"Tables must be among {tuple(TABLES)}. Received: {unknown}")
    rows = {
        "detectors": (row for detector in detectors for row in _detector(detector)),
        "attentions": (row for depth in (2, 6) for row in _attentions(depth)),
        "alignment": (row for depth in (2, 6) for row in _alignment(depth)),
        "start": (row for depth in (2, 6) for row in _start(depth)),
        "length": (row for detector in LENGTHS for row in _length(detector)),
    }
    return {name: list(rows[name]) for name in TABLES if name in only}


def trials_of(tables: dict[str, list[Comparison]], seeds: int, backbone: str = "") -> list[Trial]:
    """Returns every training run of the tables once, seed by seed.

    Args:
        tables: As `plan_tables` returns them.
        seeds: Number of seeds per row.
        backbone: SHA-256 of the initial backbone weights.
    """
    planned = dict.fromkeys(row.trial for rows in tables.values() for row in rows)
    return [replace(t, seed=seed, backbone=backbone) for seed in range(seeds) for t in planned]


def seconds_of(trial: Trial) -> float:
    """Estimates how long a training run with the default settings takes on one core."""
    step = (0.4 if trial.detector == "faster-rcnn" else 0.15) + 0.055 * trial.num_blocks
    return 60 + step * trial.steps


def _detector(name):
    plain = Trial(name)
    yield Comparison(f"{name}, without DyHead", plain)
    if name == "atss":
        label = f"{name}, without DyHead, 4 convolutions in the head"
        yield Comparison(label, replace(plain, head_layers=4), plain)
    for depth in (1, 2, 4, 6) if name == "atss" else (2, 6):
        label = f"{name}, {depth} block{'s' if depth > 1 else ''}"
        yield Comparison(label, replace(plain, num_blocks=depth), plain)
    if name == "faster-rcnn":
        for depth in (2, 6):
            paper = replace(plain, num_blocks=depth, arrangement="paper")
            yield Comparison(f"{name}, {depth} blocks, arranged as in the paper", paper, plain)


def _attentions(depth):
    """The baseline has no attention: regular convolutions, the mean over levels, and a ReLU."""
    none = Trial(num_blocks=depth, attentions=())
    yield Comparison(f"atss, {depth} blocks, no attention", none)
    for chosen in (
        *(("spatial",), ("scale",), ("task",)),
        *(("spatial", "scale"), ("spatial", "task"), ("scale", "task")),
        ATTENTIONS,
    ):
        yield Comparison(" + ".join(chosen), replace(none, attentions=chosen), none)


def _alignment(depth):
    paper = Trial(num_blocks=depth)
    yield Comparison(f"atss, {depth} blocks, the paper's", paper)
    yield Comparison("as published", replace(paper, alignment="published"), paper)


def _start(depth):
    released = Trial(num_blocks=depth, start="released")
    yield Comparison(f"atss, {depth} blocks, as released", released)
    yield Comparison("near the identity", replace(released, start="identity"), released)


def _length(detector):
    for times in LENGTHS[detector]:
        plain = Trial(detector, steps=times * Trial.steps)
        yield Comparison(f"{detector}, {plain.steps} steps, without DyHead", plain)
        yield Comparison("6 blocks", replace(plain, num_blocks=6), plain)
