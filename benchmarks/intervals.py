"""Means of few values with confidence intervals."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

# 0.975 quantiles of Student's t distribution by degrees of freedom, for 95 % intervals.
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
        half_width: Half the width of the interval, `None` for fewer than two values.
    """

    mean: float
    half_width: float | None = None

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.half_width is not None and abs(self.mean) > self.half_width

    def __format__(self, form: str) -> str:
        mean = round(self.mean, 1) + 0.0  # no "-0.0"
        width = "" if self.half_width is None else f" ± {self.half_width:.1f}"
        return f"{mean:{form or '.1f'}}{width}"


def t_interval(values: Sequence[float]) -> Estimate:
    """Estimates the mean of the distribution of the values with Student's t distribution.

    Args:
        values: At least one value. For more than 31 values, the interval uses 30 degrees of
            freedom and is up to 5 % too wide.

    Example:

    >>> f"{t_interval([40.0, 41.0, 42.0])}"
    '41.0 ± 2.5'
    """
    if len(values) == 1:
        return Estimate(values[0])
    quantile = _QUANTILES[min(len(values) - 1, len(_QUANTILES)) - 1]
    half_width = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return Estimate(statistics.fmean(values), half_width)


def paired_difference(values: Mapping, baseline: Mapping) -> Estimate | None:
    """Estimates the difference between values and a baseline, paired by key.

    An effect that a seed has on both cancels out and does not widen the interval.

    Args:
        values: Values by seed.
        baseline: Values of the baseline by seed. Seeds without a partner are left out.

    Returns:
        The estimate, or `None` if there is no common seed.

    Example:

    >>> f"{paired_difference({0: 41.0, 1: 44.0}, {0: 40.0, 1: 42.0, 2: 39.0}):+.1f}"
    '+1.5 ± 6.4'
    """
    keys = [key for key in values if key in baseline]
    return t_interval([values[key] - baseline[key] for key in keys]) if keys else None
