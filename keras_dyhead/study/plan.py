"""What a study trains and compares: settings, configurations, and the tables they belong to."""

import dataclasses
from collections.abc import Iterable, Sequence

from keras_dyhead.detectors import DETECTORS

ATTENTIONS = ("spatial", "scale", "task")
BACKBONE_WEIGHTS = "backbone.weights.h5"
"""File of the pretrained backbone, beside the drawn sets."""

TITLES = {
    "detectors": "Detectors without and with DyHead",
    "attentions": "What each attention adds",
    "alignment": "Alignment of the coarser level",
    "blocks": "Number of blocks",
    "start": "Start of the backbone",
    "length": "Length of the training",
}
"""The tables of a study, by name."""

DEPTHS = (1, 2, 4, 6)
LENGTHS = (0.25, 0.5, 1.0)
ROUNDS = 10
"""Equal parts of a training, whose losses and times are recorded."""


@dataclasses.dataclass(frozen=True)
class StudySettings:
    """What all trainings of a study have in common.

    Args:
        steps: Optimizer steps of every training, a multiple of 10. Defaults to `1600`.
        pretraining: Steps that the backbone has learned to tell cut-out shapes apart before, the
            same for all trainings; 0 for none. Defaults to `2400`.
        images: Drawn images to train on. Defaults to `12000`.
        held_out: Drawn images to evaluate on. Defaults to `400`.
        image_size: Height and width of the images in pixels, at least 64. Defaults to `128`.
        batch_size: Images per step. Defaults to `8`.
        channels: Channels of pyramid, DyHead and heads, a multiple of 16. Defaults to `32`.
        head_convs: Convolutions before the predictions, with and without DyHead, of all detectors
            but Faster R-CNN. Defaults to `None`: as in `keras-dyhead train`, one in RetinaNet and
            none in the others.
        learning_rate: Peak of the schedule, see `TrainingSettings`. Defaults to `2e-3`.
        backbone: One of `keras_dyhead.training.BACKBONES`. Defaults to `"small"`.

    Example:

    >>> StudySettings(steps=400, image_size=256).shapes()["size_range"]
    (20.0, 160.0)
    """

    steps: int = 1600
    pretraining: int = 2400
    images: int = 12000
    held_out: int = 400
    image_size: int = 128
    batch_size: int = 8
    channels: int = 32
    head_convs: int | None = None
    learning_rate: float = 2e-3
    backbone: str = "small"

    def __post_init__(self):
        if self.steps < ROUNDS or self.steps % ROUNDS:
            raise ValueError(f"`steps` must be a multiple of {ROUNDS}. Received: {self.steps}")
        smallest_values = {
            "pretraining": 0,
            "batch_size": 1,
            "held_out": 1,
            "image_size": 64,
            "head_convs": 0,
        }
        for name, smallest in smallest_values.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ValueError(f"`{name}` must be at least {smallest}. Received: {value}")
        if self.images < self.batch_size:
            raise ValueError(
                "`images` must fill a batch. "
                f"Received: images={self.images}, batch_size={self.batch_size}"
            )
        if self.channels < 16 or self.channels % 16:
            raise ValueError(f"`channels` must be a multiple of 16. Received: {self.channels}")
        if not self.learning_rate > 0:
            raise ValueError(f"`learning_rate` must be positive. Received: {self.learning_rate}")

    def shapes(self) -> dict:
        """Returns the arguments of `draw_shapes` that make the set hard.

        Sizes over a range of one to eight, shapes narrower than long in any direction, hues that
        tell nothing of the class, overlaps, and outlines that are no objects.
        """
        return {
            "image_size": self.image_size,
            "max_shapes": 6,
            "size_range": (self.image_size / 12.8, self.image_size * 5 / 8),
            "class_hues": False,
            "min_contrast": 30.0,
            "min_stretch": 0.4,
            "max_overlap": 0.25,
            "max_outlines": 6,
        }


@dataclasses.dataclass(frozen=True)
class Configuration:
    """A detector to be trained: all that distinguishes it from the others of the study.

    Args:
        detector: One of `keras_dyhead.detectors.DETECTORS`.
        num_blocks: DyHead blocks, 0 for none. Defaults to `0`.
        attentions: Those of `ATTENTIONS` that the blocks have. Defaults to all.
        alignment: `"paper"` or `"published"`. Defaults to `"paper"`.
        head_convs: Convolutions before the predictions. Defaults to `None`: those of the study.
        length: Factor of the study's steps. Defaults to `1.0`.
        pretrained: Whether the backbone is the study's pretrained one. Defaults to `True`.

    Example:

    >>> Configuration("atss", num_blocks=2, attentions=("spatial",)).name
    'atss_2-blocks_spatial'
    """

    detector: str
    num_blocks: int = 0
    attentions: tuple[str, ...] = ATTENTIONS
    alignment: str = "paper"
    head_convs: int | None = None
    length: float = 1.0
    pretrained: bool = True

    def __post_init__(self):
        object.__setattr__(self, "attentions", tuple(self.attentions))

    @property
    def name(self) -> str:
        """A name for files, different for every configuration."""
        parts = [self.detector, f"{self.num_blocks}-blocks"]
        if self.attentions != ATTENTIONS:
            parts.append("-".join(self.attentions) or "no-attention")
        if self.alignment != "paper":
            parts.append(self.alignment)
        if self.head_convs is not None:
            parts.append(f"{self.head_convs}-convs")
        if self.length != 1:
            parts.append(f"{self.length:g}-length")
        if not self.pretrained:
            parts.append("random-backbone")
        return "_".join(parts)


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a table: a configuration, and the one it is compared with, or `None`.

    Example:

    >>> row = Row("2 blocks", Configuration("atss", 2), baseline=Configuration("atss"))
    >>> row.configuration.num_blocks - row.baseline.num_blocks
    2
    """

    label: str
    configuration: Configuration
    baseline: Configuration | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """Configurations to compare with each other.

    Example:

    >>> table = Table("mine", (Row("without", Configuration("atss")),))
    >>> len(trials([table], seeds=3))
    3
    """

    name: str
    rows: tuple[Row, ...]


def plan_tables(
    detectors: Sequence[str] = tuple(DETECTORS),
    ablate: str = "atss",
    num_blocks: int = 2,
    only: Iterable[str] = tuple(TITLES),
) -> list[Table]:
    """Lists what a study compares.

    Args:
        detectors: Detectors to train without and with DyHead. Defaults to all.
        ablate: Detector of the other tables. Defaults to `"atss"`, as in the paper.
        num_blocks: DyHead blocks where their number is not what is compared. Defaults to `2`.
        only: Names of the tables wanted, of `TITLES`. Defaults to all.

    Raises:
        ValueError: If a detector or table is unknown, or `num_blocks` is not positive.

    Example:

    >>> [(table.name, len(table.rows)) for table in plan_tables(only=["alignment", "blocks"])]
    [('alignment', 2), ('blocks', 6)]
    """
    only = list(only)
    for name in [*detectors, ablate]:
        if name not in DETECTORS:
            raise ValueError(f"Detectors must be among {list(DETECTORS)}. Received: {name!r}")
    for name in only:
        if name not in TITLES:
            raise ValueError(f"Tables must be among {tuple(TITLES)}. Received: {name!r}")
    if num_blocks < 1:
        raise ValueError(f"`num_blocks` must be at least 1. Received: {num_blocks}")
    return [
        Table(name, tuple(_ROWS[name](detectors, ablate, num_blocks)))
        for name in TITLES
        if name in only
    ]


def trials(tables: Iterable[Table], seeds: int) -> list[tuple[Configuration, int]]:
    """Returns every configuration of the tables with every seed, all of one seed first.

    Example:

    >>> planned = trials(plan_tables(only=["alignment"]), seeds=2)
    >>> [(configuration.alignment, seed) for configuration, seed in planned]
    [('paper', 0), ('published', 0), ('paper', 1), ('published', 1)]
    """
    rows = [row for table in tables for row in table.rows]
    configurations = dict.fromkeys(row.configuration for row in rows)
    return [(configuration, seed) for seed in range(seeds) for configuration in configurations]


def _detector_rows(detectors, ablate, num_blocks):
    for name in detectors:
        plain = Configuration(name)
        yield Row(f"{name}, without", plain)
        yield Row(f"{name}, {_count(num_blocks)}", Configuration(name, num_blocks), plain)


def _attention_rows(detectors, ablate, num_blocks):
    """None first: the same convolutions on a regular grid, averaged over levels, with a ReLU."""
    none = Configuration(ablate, num_blocks, ())
    yield Row(f"{ablate}, {_count(num_blocks)}, no attention", none)
    for spatial, scale, task in (
        *((True, False, False), (False, True, False), (False, False, True)),
        *((True, True, False), (True, False, True), (False, True, True)),
        (True, True, True),
    ):
        wanted = zip(ATTENTIONS, (spatial, scale, task), strict=True)
        chosen = tuple(name for name, on in wanted if on)
        yield Row(" + ".join(chosen), Configuration(ablate, num_blocks, chosen), none)


def _alignment_rows(detectors, ablate, num_blocks):
    paper = Configuration(ablate, num_blocks)
    yield Row(f"{ablate}, {_count(num_blocks)}, paper", paper)
    yield Row("published", dataclasses.replace(paper, alignment="published"), paper)


def _depth_rows(detectors, ablate, num_blocks):
    """With the detector's own head of four convolutions in place of DyHead as a second baseline."""
    plain = Configuration(ablate)
    yield Row(f"{ablate}, without", plain)
    yield Row("without, 4 convolutions in the head", Configuration(ablate, head_convs=4), plain)
    for depth in DEPTHS:
        yield Row(_count(depth), Configuration(ablate, depth), plain)


def _start_rows(detectors, ablate, num_blocks):
    """Whether a gain, or its lack, is one of learning to see at the same time."""
    for pretrained, label in ((False, "random"), (True, "pretrained")):
        plain = Configuration(ablate, pretrained=pretrained)
        refined = Configuration(ablate, num_blocks, pretrained=pretrained)
        yield Row(f"{ablate}, without, {label} backbone", plain)
        yield Row(f"{_count(num_blocks)}, {label} backbone", refined, plain)


def _length_rows(detectors, ablate, num_blocks):
    """Whether a gain, or its lack, is one of the steps that all have in common."""
    for length in LENGTHS:
        plain = Configuration(ablate, length=length)
        refined = Configuration(ablate, num_blocks, length=length)
        yield Row(f"{ablate}, without, {length:g} of the steps", plain)
        yield Row(f"{_count(num_blocks)}, {length:g} of the steps", refined, plain)


def _count(blocks):
    return f"{blocks} block{'s' if blocks > 1 else ''}"


_ROWS = {
    "detectors": _detector_rows,
    "attentions": _attention_rows,
    "alignment": _alignment_rows,
    "blocks": _depth_rows,
    "start": _start_rows,
    "length": _length_rows,
}
