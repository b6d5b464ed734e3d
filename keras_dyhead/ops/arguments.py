"""Checks and conversions of arguments."""

import warnings
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops


def warn_ignored(name: str, arguments: Mapping) -> None:
    """Warns of keyword arguments of a functional model `name`: Keras ignores unknown ones."""
    if unknown := sorted(arguments.keys() - {"name", "trainable"}):
        warnings.warn(f"{name} has no arguments {unknown}: they are ignored.", stacklevel=4)


def whole_number(value: int, name: str, smallest: int = 1) -> int:
    """Returns a Python int of at least `smallest`, else raises a `ValueError` about `name`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < smallest:
        raise ValueError(
            f"`{name}` must be an int of at least {smallest}. Received: {name}={value!r}"
        )
    return int(value)


def pair(value: int | Sequence[int], name: str, smallest: int = 1) -> tuple[int, int]:
    """Returns a pair of ints from an int or a pair; see `whole_number`."""
    values = (value, value) if np.ndim(value) == 0 else tuple(value)
    try:
        if len(values) == 2:
            return tuple(whole_number(v, name, smallest) for v in values)
    except ValueError:
        pass
    raise ValueError(
        f"`{name}` must be an int of at least {smallest}, or a pair of them. "
        f"Received: {name}={value!r}"
    )


def at_least_float32(dtype) -> str:
    """Returns float32, or float64 for float64: on JAX and PyTorch Keras' `result_type` does not."""
    return "float64" if keras.backend.standardize_dtype(dtype) == "float64" else "float32"


def float_tensor(x):
    """Converts to a tensor of floats; integers become float32."""
    x = ops.convert_to_tensor(x)
    return x if keras.backend.is_float_dtype(x.dtype) else ops.cast(x, "float32")
