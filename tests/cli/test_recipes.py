"""`keras-dyhead recipes` lists and shows the recipes."""

from typer.testing import CliRunner

from keras_dyhead.cli import app
from keras_dyhead.recipes import RECIPES

SWIN = "dyhead_swint_atss_fpn_2x_ms"


def test_the_recipes_are_listed_with_their_ap_and_shown_with_their_settings():
    listed = CliRunner().invoke(app, ["recipes"]).output
    assert all(f"{name}\n    {recipe.__doc__}\n" in listed for name, recipe in RECIPES.items())
    assert "49.8 AP, 2.0e18 multiply-adds" in listed
    shown = CliRunner().invoke(app, ["recipes", SWIN]).output
    recipe = RECIPES[SWIN]
    assert recipe.COMMAND in shown and all(f"- {text}\n" in shown for text in recipe.DIFFERENCES)
    assert "AP on COCO: 49.8 in the published training run" in shown
    assert "    batch_size = 32\n" in shown
    unknown = CliRunner().invoke(app, ["recipes", "x50"])
    assert unknown.exit_code == 2 and SWIN in unknown.output
