"""What DyHead and each of its attentions gain, measured with equal seeds, steps and data."""

from keras_dyhead.study.folder import StudyFolder
from keras_dyhead.study.intervals import Estimate, paired_difference, t_interval
from keras_dyhead.study.plan import (
    TITLES,
    Configuration,
    Row,
    StudySettings,
    Table,
    plan_tables,
    trials,
)
from keras_dyhead.study.plot import plot_report
from keras_dyhead.study.report import make_report, markdown_report
from keras_dyhead.study.run import Progress, estimate_seconds, run_study

__all__ = [
    "TITLES",
    "Configuration",
    "Estimate",
    "Progress",
    "Row",
    "StudyFolder",
    "StudySettings",
    "Table",
    "estimate_seconds",
    "make_report",
    "markdown_report",
    "paired_difference",
    "plan_tables",
    "plot_report",
    "run_study",
    "t_interval",
    "trials",
]
