"""Parses and merges settings such as `learning_rate=0.02`."""

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
    """Parses `name=value` texts into arguments of `TrainingSettings`.

    Values that are not JSON are strings: `epochs=3`, `canvases=[[896,1152],[1152,896]]`,
    `clip_norm=null`, `optimizer=sgd`. Entries of `augmentation` can be set one by one:
    `augmentation.horizontal_flip=0`. Types are checked, and unknown names get a suggestion.
    """
    kinds = typing.get_type_hints(TrainingSettings)
    known = [field.name for field in dataclasses.fields(TrainingSettings)]
    found: dict[str, Any] = {}
    for text in texts:
        path, equals, written = text.partition("=")
        name, dot, key = path.partition(".") if path.startswith("augmentation.") else (path, "", "")
        if not equals:
            raise ValueError(f"Settings must have the form name=value. Received: {text!r}")
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


def _fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value fits a type. A list fits a tuple, and an int a float."""
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
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_described, arguments)))
    if origin is tuple:
        return f"[{_described(arguments[0])}, ...]"
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    words |= {type(None): "null", os.PathLike: "a string"}
    return words.get(kind, "a dictionary")
