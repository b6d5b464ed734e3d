"""Parses and merges settings such as `learning_rate=0.02`."""

import difflib
import json
import typing
from collections.abc import Sequence
from typing import Any

from keras_dyhead.ops.arguments import described, fits
from keras_dyhead.training.settings import TrainingSettings


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """Parses `name=value` texts into arguments of `TrainingSettings`.

    Values that are not JSON are strings: `epochs=3`, `canvases=[[896,1152],[1152,896]]`,
    `clip_norm=null`, `optimizer=sgd`. Entries of `augmentation` can be set one by one:
    `augmentation.horizontal_flip=0`. Types are checked, and unknown names get a suggestion.
    """
    kinds = typing.get_type_hints(TrainingSettings)
    found: dict[str, Any] = {}
    for text in texts:
        path, equals, written = text.partition("=")
        name, dot, key = path.partition(".") if path.startswith("augmentation.") else (path, "", "")
        if not equals:
            raise ValueError(f"Settings must have the form name=value. Received: {text!r}")
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=3) or list(kinds)
            raise ValueError(f"There is no setting {name!r}. Did you mean one of {near}?")
        try:
            value = json.loads(written)
        except json.JSONDecodeError:
            value = written
        if dot:
            value = (found.get(name) or {}) | {key: value}
        if not fits(value, kinds[name]):
            raise ValueError(f"`{name}` must be {described(kinds[name])}. Received: {text}")
        found[name] = value
    return found


def merge_settings(*parts: dict[str, Any]) -> dict[str, Any]:
    """Merges dictionaries of settings. Later ones override earlier ones.

    Entries of `augmentation` are merged one by one. `image_size` and `canvases` replace each other.
    """
    merged: dict[str, Any] = {}
    for part in parts:
        for name, other in (("image_size", "canvases"), ("canvases", "image_size")):
            if part.get(name) is not None:
                merged.pop(other, None)
        varied = {**(merged.get("augmentation") or {}), **(part.get("augmentation") or {})}
        merged |= part
        if part.get("augmentation") is not None:
            merged["augmentation"] = varied
    return merged
