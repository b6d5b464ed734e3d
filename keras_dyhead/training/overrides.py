"""Settings given as text: `learning_rate=0.02`."""

import collections.abc
import dataclasses
import difflib
import json
import os
import types
import typing
from collections.abc import Sequence
from typing import Any

from keras_dyhead.training.settings import TrainingSettings


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """Returns the arguments of `TrainingSettings` that a list of `name=value` stands for.

    Args:
        texts: Texts such as `"epochs=3"`. Values are JSON, or else taken as they stand:
            `optimizer=sgd`, `canvases=[[896,1152],[1152,896]]`, `clip_norm=null`. What
            `augmentation` consists of can be given one by one: `augmentation.horizontal_flip=0`.

    Raises:
        ValueError: If there is no such setting, the nearest ones are named; or if a value is of
            another type than the setting.

    Example:

    >>> parse_overrides(["epochs=3", "optimizer=sgd", "augmentation.horizontal_flip=0"])
    {'epochs': 3, 'optimizer': 'sgd', 'augmentation': {'horizontal_flip': 0}}
    """
    kinds = typing.get_type_hints(TrainingSettings)
    known = [field.name for field in dataclasses.fields(TrainingSettings)]
    found: dict[str, Any] = {}
    for text in texts:
        path, equals, written = text.partition("=")
        name, dot, key = path.partition(".") if path.startswith("augmentation.") else (path, "", "")
        if not equals:
            raise ValueError(f"Settings are given as name=value. Received: {text!r}")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or known
            raise ValueError(f"There is no setting {name!r}. Did you mean one of {near}?")
        try:
            value = json.loads(written)
        except json.JSONDecodeError:
            value = written
        if dot:
            value = found.get(name, {}) | {key: value}
        if not _fits(value, kinds[name]):
            raise ValueError(f"`{name}` must be {_described(kinds[name])}. Received: {text}")
        found[name] = value
    return found


def merge_settings(*parts: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of several dictionaries together; the last one wins.

    Of `augmentation`, single entries win. `image_size` and `canvases` take each other's place.

    Args:
        *parts: Arguments of `TrainingSettings`.

    Example:

    >>> merge_settings({"epochs": 12, "image_size": 512}, {"canvases": [[896, 1152]]})
    {'epochs': 12, 'canvases': [[896, 1152]]}
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


def _fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value can stand for a type: a list for a tuple, an int for a float."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is tuple:
        return isinstance(value, list) and all(
            any(_fits(entry, kind) for kind in arguments if kind is not Ellipsis) for entry in value
        )
    if origin is collections.abc.Mapping:
        return isinstance(value, dict)
    if kind is os.PathLike:
        return isinstance(value, str)
    if kind in (int, float):
        numbers = int if kind is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)
    return isinstance(value, kind)


def _described(kind: Any) -> str:
    """A type in the words of JSON."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_described, arguments)))
    if origin is tuple:
        return f"[{_described(arguments[0])}, ...]"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    words |= {type(None): "null", os.PathLike: "a text"}
    return words.get(kind, "a dictionary")
