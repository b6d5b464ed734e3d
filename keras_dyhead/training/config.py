"""Everything a training is made of, written down."""

import dataclasses
import platform
from collections.abc import Sequence

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from keras_dyhead.training.data import open_training_data
from keras_dyhead.training.settings import TrainingSettings, build_preprocessor
from keras_dyhead.version import __version__


def package_versions() -> dict[str, str]:
    """Returns the versions of this package, of Python, and of what it computes with."""
    return {
        "keras_dyhead": __version__,
        "keras": keras.__version__,
        "keras_hub": keras_hub.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def training_config(
    settings: TrainingSettings, class_names: Sequence[str], steps_per_epoch: int
) -> dict:
    """Returns what a training is made of, and what its settings amount to.

    Args:
        settings: Resolved settings.
        class_names: Name of each label.
        steps_per_epoch: Batches of an epoch.

    Returns:
        Dict that `json` can write: `settings`; `follows`, what follows from them, see
        `OptimizerSettings.scaled`, with the number of steps, the preprocessing, and the remaining
        arguments of a published model; `class_names`; `versions`.
    """
    steps = steps_per_epoch * settings.epochs
    preprocessing = build_preprocessor(settings).get_config()
    follows = {
        "steps_per_epoch": steps_per_epoch,
        "steps": steps,
        **settings.scaled(settings.batch_size, steps),
        "preprocessing": {k: v for k, v in preprocessing.items() if k not in ("name", "trainable")},
    }
    if settings.published is not None:
        follows["published"] = dataclasses.asdict(settings.published)["arguments"]
    return {
        "settings": dataclasses.asdict(settings),
        "follows": follows,
        "class_names": list(class_names),
        "versions": package_versions(),
    }


def planned_config(settings: TrainingSettings) -> dict:
    """Returns the configuration of a training that is not begun, without reading its images.

    Args:
        settings: The settings. With a `strategy`, incomplete batches are taken for dropped, as they
            are on several devices.

    Example:

    >>> settings = TrainingSettings("shapes/images", draw_shapes("shapes", 4, 64), epochs=2)
    >>> planned_config(settings)["follows"]["steps"]
    2
    """
    data = open_training_data(
        settings,
        build_preprocessor(settings),
        verify=False,
        drop_remainder=settings.strategy != "none",
    )
    return training_config(settings.resolve(data.annotations), data.class_names, len(data))
