"""`keras-dyhead recipes`."""

from typing import Annotated

import typer

from keras_dyhead.cli.console import app
from keras_dyhead.recipes import RECIPES, load_recipe

_RECIPE = """\
{NAME}: {__doc__}

Command:
    {COMMAND}

Backbone weights: {WEIGHTS}
Cost: {cost} multiply-adds. {HARDWARE}
AP on COCO: {AP} in the published training run ({AP_SOURCE}). This recipe has not been measured.
Source: {SOURCE}

Differences from the published training run:
{differences}

Settings:
{settings}"""


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="Recipe to show.", show_default=False)] = None,
) -> None:
    """List the published training runs with their AP and cost, or show one of them.

    The cost is the number of multiply-adds of the whole training run.

    **Examples**

    keras-dyhead recipes

    keras-dyhead recipes dyhead_r50_atss_fpn_1x
    """
    if name is None:
        for known, recipe in RECIPES.items():
            print(f"{known}\n    {recipe.__doc__}")
            print(f"    {recipe.AP} AP, {_cost(recipe)} multiply-adds")
        return
    recipe = load_recipe(name)
    differences = "\n".join(f"    - {text}" for text in recipe.DIFFERENCES)
    settings = "\n".join(f"    {key} = {value!r}" for key, value in recipe.SETTINGS.items())
    texts = {"cost": _cost(recipe), "differences": differences, "settings": settings}
    print(_RECIPE.format(**vars(recipe), **texts))


def _cost(recipe) -> str:
    return f"{recipe.COST:.1e}".replace("+", "")
