"""Names that an example in a docstring may use without defining them."""

import ast

import numpy as np
from docs.reader import small_backbone, small_model

from keras_dyhead.coco import CocoAnnotations, load_coco


def assumed_names(code):
    """Returns the values of those names that code uses without defining them."""
    names = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)]
    defined = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    used = {name.id for name in names} - defined
    return {name: make() for name, make in _ASSUMED.items() if name in used}


def _data():
    return load_coco("train", "train.json", 2, (64, 64), training=True)


def _compiled_model():
    model = small_model()
    model.compile()
    return model


_ASSUMED = {
    "annotations": lambda: CocoAnnotations("val.json", "val"),
    "backbone": small_backbone,
    "dataset": _data,
    "image": lambda: np.zeros((48, 64, 3), "uint8"),
    "images": lambda: np.zeros((2, 64, 64, 3), "float32"),
    "model": _compiled_model,
    "train": _data,
}
