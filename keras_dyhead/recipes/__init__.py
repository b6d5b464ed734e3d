"""Published trainings as plain Python files: `keras-dyhead train --recipe NAME`.

A recipe is a module of this folder. Its docstring begins with one line that says what it trains,
followed by the sections `Command`, `Cost`, `Expected` (AP, with its source), `Differs from the
published training` and `Source`. Its `SETTINGS` are arguments of
`keras_dyhead.training.TrainingSettings`; `detector` names the published model that they train.
"""

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Mapping
from typing import Any

RECIPES = tuple(module.name for module in pkgutil.iter_modules(__path__))
"""Names of the recipes."""

_SECTION = re.compile(r"^([A-Z][a-z ]+):\s*(.*?)(?=^[A-Z][a-z ]+:|\Z)", re.MULTILINE | re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A published training.

    Args:
        name: One of `RECIPES`.
        title: What it trains, in one line.
        sections: Texts by their headings, see above.
        settings: Arguments of `TrainingSettings`, without data.

    Example:

    >>> recipe = load_recipe("dyhead_r50_atss_fpn_1x")
    >>> [name for name in recipe.sections if name in ("Command", "Cost", "Expected")]
    ['Command', 'Cost', 'Expected']
    """

    name: str
    title: str
    sections: Mapping[str, str]
    settings: Mapping[str, Any]


def load_recipe(name: str) -> Recipe:
    """Returns a recipe.

    Args:
        name: One of `RECIPES`.

    Raises:
        ValueError: If there is no such recipe.

    Example:

    >>> load_recipe("dyhead_r50_atss_fpn_1x").settings["detector"]
    'dyhead_r50_atss_fpn_1x'
    """
    if name not in RECIPES:
        raise ValueError(f"`recipe` must be one of {RECIPES}. Received: recipe={name!r}")
    module = importlib.import_module(f"{__name__}.{name}")
    title, text = module.__doc__.split("\n", 1)
    sections = {heading: body.strip() for heading, body in _SECTION.findall(text)}
    return Recipe(name, title.rstrip("."), sections, dict(module.SETTINGS))


def recipe_settings(name: str) -> dict[str, Any]:
    """Returns the settings of a recipe, without data.

    Args:
        name: One of `RECIPES`.

    Returns:
        Arguments of `TrainingSettings`.

    Raises:
        ValueError: If there is no such recipe.

    Example:

    >>> from keras_dyhead.training import TrainingSettings
    >>> settings = recipe_settings("dyhead_r50_atss_fpn_1x") | {"batch_size": 4}
    >>> TrainingSettings("train2017", "instances_train2017.json", **settings).batch_size
    4
    """
    return dict(load_recipe(name).settings)


__all__ = ["RECIPES", "Recipe", "load_recipe", "recipe_settings"]
