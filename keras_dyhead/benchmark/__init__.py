"""Timing the sampler and the tower next to torchvision's operation, on this machine's CPU."""

from keras_dyhead.benchmark.comparison import compare, markdown
from keras_dyhead.benchmark.scaling import (
    SCALING_FIGURES,
    fit_exponent,
    measure_scaling,
    plot_scaling,
)
from keras_dyhead.benchmark.workload import Workload

__all__ = [
    "SCALING_FIGURES",
    "Workload",
    "compare",
    "fit_exponent",
    "markdown",
    "measure_scaling",
    "plot_scaling",
]
