"""Means of few values, with the interval that their spread allows for."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

# The 0.975 quantile of Student's t distribution by degrees of freedom: a 95 % interval.
_QUANTILES = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval `mean - half_width .. mean + half_width`.

    Args:
        mean: The mean of the values.
        half_width: Half the width of the interval, or `None` for fewer than two values.
        values: The values.

    Example:

    >>> Estimate(mean=41.0, half_width=2.5, values=(40.0, 42.0)).half_width
    2.5
    """

    mean: float
    half_width: float | None
    values: tuple[float, ...]


def t_interval(values: Sequence[float]) -> Estimate:
    """Estimates the mean of what the values are drawn from, by Student's t distribution.

    Args:
        values: At least one value. For more than 31 the interval is that of 30 degrees of freedom,
            which is up to 5 % too wide.

    Raises:
        ValueError: If there is no value.

    Example:

    >>> estimate = t_interval([40.0, 41.0, 42.0])
    >>> estimate.mean, round(estimate.half_width, 2)
    (41.0, 2.48)
    """
    values = tuple(float(value) for value in values)
    if not values:
        raise ValueError(f"`values` must hold at least one value. Received: {values}")
    if len(values) == 1:
        return Estimate(values[0], None, values)
    quantile = _QUANTILES[min(len(values) - 1, len(_QUANTILES)) - 1]
    half_width = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(statistics.fmean(values), half_width, values)


def paired_difference(values: dict[int, float], baseline: dict[int, float]) -> Estimate | None:
    """Estimates how much larger values are than those of a baseline with the same seeds.

    What a seed does to both drops out of the differences, whose spread alone makes the interval.

    Args:
        values: Values by seed.
        baseline: Those of the baseline. Seeds that only one of them has are left out.

    Returns:
        The estimate, or `None` if they have no seed in common.

    Example:

    >>> gain = paired_difference({0: 41.0, 1: 44.0}, {0: 40.0, 1: 41.0, 2: 39.0})
    >>> gain.mean, gain.values
    (2.0, (1.0, 3.0))
    """
    seeds = sorted(values.keys() & baseline.keys())
    return t_interval([values[seed] - baseline[seed] for seed in seeds]) if seeds else None
