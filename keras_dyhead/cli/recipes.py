"""`keras-dyhead recipes`."""

import importlib
import re
from typing import Annotated

import typer

from keras_dyhead.cli.console import app, print_error
from keras_dyhead.recipes import RECIPES, load_recipe


@app.command()
def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Show this recipe.", show_default=False)
    ] = None,
) -> None:
    """List the published trainings, with the AP expected of each and its cost, or show one.

    The cost is that of all steps, in multiply-adds.

    **Examples**

    keras-dyhead recipes

    keras-dyhead recipes dyhead_r50_atss_fpn_1x
    """
    if name is None:
        for known in RECIPES:
            recipe = load_recipe(known)
            (ap,) = re.findall(r"^[0-9.]+ AP", recipe.sections["Expected"])
            (cost,) = re.findall(r"([0-9.]+e[0-9]+) for all", recipe.sections["Cost"])
            print(f"{known}\n    {recipe.title}\n    {ap}, {cost} multiply-adds")
        return
    try:
        recipe = load_recipe(name)
    except ValueError as error:
        print_error(error)
        raise typer.Exit(2) from None
    print(importlib.import_module(f"keras_dyhead.recipes.{name}").__doc__.rstrip())
    print("\nSettings:")
    for setting, value in recipe.settings.items():
        print(f"    {setting} = {value!r}")
