"""Published training runs as plain Python files: `keras-dyhead train --recipe NAME`.

A recipe is a module in this folder. Its docstring says what it trains. It has these fields:

- `NAME`: name of the published model in `keras_dyhead.checkpoints`;
- `COMMAND` to train it on COCO; `WEIGHTS`: source of the backbone weights;
- `COST`: multiply-adds of all steps; `HARDWARE` of the published training run;
- `AP` of the published training run on COCO in percent, and its source `AP_SOURCE`;
- `SOURCE` of the settings; `DIFFERENCES` from the published training run, one sentence each;
- `SETTINGS`: arguments of `keras_dyhead.training.TrainingSettings`, without data.
"""

from types import ModuleType

from keras_dyhead.recipes import (
    atss_r50_caffe_fpn_dyhead_1x_coco,
    atss_r50_fpn_dyhead_1x_coco,
    atss_swin_l_p4_w12_fpn_dyhead_ms_2x_coco,
    atss_x101_64x4d_dcnv2_fpn_dyhead,
    dyhead_r50_atss_fpn_1x,
    dyhead_r50_rcnn_fpn_1x,
    dyhead_r50_retina_fpn_1x,
    dyhead_swint_atss_fpn_2x_ms,
)

RECIPES = {
    recipe.NAME: recipe
    for recipe in (
        dyhead_r50_retina_fpn_1x,
        dyhead_r50_atss_fpn_1x,
        dyhead_r50_rcnn_fpn_1x,
        dyhead_swint_atss_fpn_2x_ms,
        atss_r50_fpn_dyhead_1x_coco,
        atss_r50_caffe_fpn_dyhead_1x_coco,
        atss_swin_l_p4_w12_fpn_dyhead_ms_2x_coco,
        atss_x101_64x4d_dcnv2_fpn_dyhead,
    )
}
"""The recipes by name."""


def load_recipe(name: str) -> ModuleType:
    """Returns the module of a recipe, one of `RECIPES`.

    Example:

    >>> from keras_dyhead.training import TrainingSettings
    >>> recipe = load_recipe("dyhead_r50_atss_fpn_1x")
    >>> recipe.AP
    42.4
    >>> settings = TrainingSettings("train", "train.json", **recipe.SETTINGS | {"batch_size": 4})
    >>> settings.batch_size, settings.learning_rate
    (4, 0.01)
    """
    if name not in RECIPES:
        raise ValueError(f"`recipe` must be one of {list(RECIPES)}. Received: recipe={name!r}")
    return RECIPES[name]


__all__ = ["RECIPES", "load_recipe"]
