"""Intervals follow Student's t distribution; differences are paired by seed."""

import math

import numpy as np
import pytest

from benchmarks.intervals import _QUANTILES, Estimate, paired_difference, t_interval


def test_quantiles_are_those_of_students_distribution():
    """Compares with the numerically integrated density."""
    for freedom, quantile in enumerate(_QUANTILES, start=1):
        x = np.linspace(0, quantile, 200_001)
        log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
        density = (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
        density *= math.exp(log_scale) / math.sqrt(freedom * math.pi)
        below = 0.5 + quantile * np.mean((density[1:] + density[:-1]) / 2)
        assert below == pytest.approx(0.975, abs=4e-6)  # of four decimals


def test_the_interval_is_the_one_in_the_textbook():
    """`scipy.stats.t.interval(0.95, 4, loc=3, scale=scipy.stats.sem([1, 2, 3, 4, 5]))`."""
    estimate = t_interval([1, 2, 3, 4, 5])
    assert estimate.mean == 3
    assert estimate.half_width == pytest.approx(3 - 1.0367568, abs=1e-4)
    assert t_interval([4]) == Estimate(4, None)


def test_effects_of_a_seed_on_both_cancel_out():
    baseline = {0: 10.0, 1: 90.0, 2: 50.0, 3: 7.0}
    estimate = paired_difference({2: 52.0, 0: 13.0, 1: 91.0, 4: 0.0}, baseline)
    assert estimate.mean == 2.0
    assert estimate.half_width == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)  # deviation 1
    assert paired_difference({5: 1.0}, baseline) is None


@pytest.mark.parametrize(
    ("mean", "half_width", "text", "excludes"),
    [
        (2.0, 1.9, "+2.0 ± 1.9", True),
        (-2.0, 2.1, "-2.0 ± 2.1", False),
        (-0.01, None, "+0.0", False),
    ],
)
def test_an_interval_excludes_zero_or_not(mean, half_width, text, excludes):
    estimate = Estimate(mean, half_width)
    assert f"{estimate:+.1f}" == text and estimate.excludes_zero == excludes
