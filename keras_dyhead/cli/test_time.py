"""The options of test-time augmentation, which several commands have."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from keras_dyhead.test_time_augmentation import TestTimeAugmentation

Tta = Annotated[
    bool,
    typer.Option(
        "--tta",
        help="Test-time augmentation: detect at several scales, also mirrored, and merge. Ten "
        "times the work of one view by default.",
    ),
]
TtaScales = Annotated[
    str | None,
    typer.Option(
        metavar="FACTORS",
        help="Scales of --tta, such as 0.5,1,1.5; by default 0.5,0.75,1,1.25,1.5.",
    ),
]
TtaMerge = Annotated[
    str,
    typer.Option(
        metavar="vote|nms",
        help="Make of overlapping boxes of a class their mean by confidence, or keep the best.",
    ),
]


def augmentation(
    tta: bool, tta_scales: str | None, tta_merge: str
) -> "TestTimeAugmentation | None":
    """What the three options ask for; scales alone are enough to ask."""
    from keras_dyhead.test_time_augmentation import TestTimeAugmentation

    if tta_scales is None:
        return TestTimeAugmentation(merge=tta_merge) if tta else None
    try:
        scales = [float(factor) for factor in tta_scales.split(",")]
    except ValueError:
        raise ValueError(
            f"--tta-scales must be numbers with commas between. Received: {tta_scales}"
        ) from None
    return TestTimeAugmentation(scales, merge=tta_merge)
