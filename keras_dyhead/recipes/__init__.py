"""Published trainings as plain Python files: `keras-dyhead train --recipe NAME`.

A recipe is a module of this folder. Its docstring states command, cost and expected AP with their
source, and what the recipe does not do of the published training; its `SETTINGS` are arguments of
`keras_dyhead.training.TrainingSettings`.
"""

import importlib
import pkgutil
from typing import Any

RECIPES = tuple(module.name for module in pkgutil.iter_modules(__path__))
"""Names of the recipes."""


def recipe_settings(name: str) -> dict[str, Any]:
    """Returns the settings of a recipe, without data.

    Args:
        name: One of `RECIPES`.

    Returns:
        Arguments of `TrainingSettings`.

    Raises:
        ValueError: If there is no such recipe.

    Example:
    ```python
    settings = recipe_settings("atss_x101_dcn_dyhead_2x") | {"batch_size": 4}
    TrainingSettings("train2017", "instances_train2017.json", **settings)
    ```
    """
    if name not in RECIPES:
        raise ValueError(f"`recipe` must be one of {RECIPES}. Received: recipe={name!r}")
    return dict(importlib.import_module(f"{__name__}.{name}").SETTINGS)


__all__ = ["RECIPES", "recipe_settings"]
