"""Checks and conversions of arguments."""

import numbers
import os
import re
import types
import typing
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops


def warn_ignored(name: str, arguments: Mapping) -> None:
    """Warns of keyword arguments of a functional model `name`: Keras ignores unknown ones."""
    if unknown := sorted(arguments.keys() - {"name", "trainable"}):
        warnings.warn(f"{name} has no arguments {unknown}: they are ignored.", stacklevel=4)


def check(name: str, value: Any, valid: bool, expected: str) -> None:
    """Raises a `ValueError` that names an argument unless it is valid."""
    if not valid:
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


def check_choice(name: str, value: Any, choices: Collection) -> None:
    """Raises a `ValueError` that names an argument unless it is one of the choices."""
    check(name, value, value in choices, f"one of {choices}")


def check_patterns(name: str, patterns: Sequence[str]) -> None:
    """Raises a `ValueError` that names an argument unless it is a list of regular expressions."""
    listed = isinstance(patterns, Sequence) and not isinstance(patterns, str)
    listed = listed and all(isinstance(pattern, str) for pattern in patterns)
    check(name, patterns, listed, "a list of regular expressions")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"`{name}` must contain regular expressions. Received: {pattern!r} ({error})"
            ) from None


def check_types(settings) -> None:
    """Raises a `ValueError` if a field of a dataclass has another type than it is declared with.

    NumPy's numbers become Python's, which JSON can hold.
    """
    for name, kind in typing.get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        check(name, value, fits(value, kind), described(kind))
        object.__setattr__(settings, name, _plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return value


def fits(value: Any, kind: Any) -> bool:
    """Whether a value fits a type. A list fits a tuple, as in JSON, and an int a float."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin in (tuple, Sequence):
        listed = isinstance(value, Sequence) and not isinstance(value, str)
        return listed and all(fits(entry, arguments[0]) for entry in value)
    if kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, origin or kind)


def are_numbers(value: Any, shape: tuple[int, ...], kind: type = float) -> bool:
    """Whether a value is an array or nested sequences of this shape, with numbers of one kind."""
    values = np.asarray(value, object)
    return values.shape == shape and all(fits(entry, kind) for entry in values.flat)


def described(kind: Any) -> str:
    """Describes a type as the command line writes its values."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(described, arguments)))
    if origin in (tuple, Sequence):
        return f"[{described(arguments[0])}, ...]"
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    words |= {type(None): "null", os.PathLike: "a string"}
    return words.get(kind, "a dictionary")


def whole_number(value: int, name: str, smallest: int = 1) -> int:
    """Returns a Python int of at least `smallest`, else raises a `ValueError` about `name`."""
    valid = fits(value, int) and value >= smallest
    check(name, value, valid, f"an int of at least {smallest}")
    return int(value)


def pair(value: int | Sequence[int], name: str, smallest: int = 1) -> tuple[int, int]:
    """Returns a pair of ints from an int or a pair; see `whole_number`."""
    values = (value, value) if np.ndim(value) == 0 else tuple(value)
    valid = len(values) == 2 and all(fits(v, int) and v >= smallest for v in values)
    check(name, value, valid, f"an int of at least {smallest}, or a pair of them")
    return tuple(map(int, values))


def at_least_float32(dtype) -> str:
    """Returns float32, or float64 for float64: on JAX and PyTorch Keras' `result_type` does not."""
    return "float64" if keras.backend.standardize_dtype(dtype) == "float64" else "float32"


def float_tensor(x):
    """Converts to a tensor of floats; integers become float32."""
    x = ops.convert_to_tensor(x)
    return x if keras.backend.is_float_dtype(x.dtype) else ops.cast(x, "float32")


def for_any_batch(function: Callable) -> Callable:
    """Lets a function of a batch in TensorFlow take an empty one: not every operation can.

    It gets one example of zeros instead. Batch and outputs may be structures of tensors.
    """
    import tensorflow as tf

    def fill(values):
        missing = tf.maximum(1 - tf.shape(values)[0], 0)
        filled = tf.pad(values, [[0, missing], *[[0, 0]] * (values.shape.rank - 1)])
        return tf.ensure_shape(filled, (None, *values.shape[1:]))

    def call(batch):
        count = tf.shape(tf.nest.flatten(batch)[0])[0]
        outputs = function(tf.nest.map_structure(fill, batch))
        return tf.nest.map_structure(lambda values: values[:count], outputs)

    return call
