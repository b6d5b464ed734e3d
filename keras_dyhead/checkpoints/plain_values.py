"""Reads pickles of arrays and plain values without running anything they name.

A pickle names functions and classes to call. Each known name maps to a class of this file, so that
a pickle cannot call NumPy or any other package.
"""

import codecs
import collections
import pickle
import re

import numpy as np


class StoredDType:
    """The dtype of a pickled array: kind, size and byte order."""

    def __init__(self, name="f4", *_):
        self.name = name if isinstance(name, str) else "unknown"

    def __setstate__(self, state):
        if re.fullmatch(r"[biuf]\d+", self.name) and state[1] in ("<", ">", "|", "="):
            self.name = state[1] + self.name


class StoredArray:
    """A pickled array. `array` is `None` unless it has numbers."""

    def __init__(self, *_):
        self.array = None

    def __setstate__(self, state):
        _, shape, dtype, by_columns, content = state
        self._fill(content, dtype, shape, "F" if by_columns else "C")

    @classmethod
    def from_buffer(cls, content, dtype, shape, order, *_):
        """Creates an array from the form of protocol 5."""
        stored = cls()
        stored._fill(content, dtype, shape, order)
        return stored

    @classmethod
    def from_number(cls, dtype, content=None):
        """Creates an array without dimensions."""
        return cls.from_buffer(content, dtype, (), "C")

    def _fill(self, content, dtype, shape, order):
        if isinstance(content, str):  # as Python 2 stored it
            content = content.encode("latin1")
        name = getattr(dtype, "name", "")
        if isinstance(content, bytes | bytearray) and re.fullmatch(r"[<>|=]?[biuf]\d+", name):
            self.array = np.frombuffer(content, name).reshape(shape, order=order)


class Inert:
    """Replaces objects that are not weights. Does and stores nothing."""

    def __new__(cls, *arguments):
        return super().__new__(cls)

    def __setstate__(self, state):
        pass


class StoredBytes:
    """Bytes as protocol 2 stores them."""

    def __new__(cls, text="", encoding="latin1"):
        return codecs.encode(text, {"latin1": "latin1"}[encoding])

    def __setstate__(self, state):
        pass


_NUMPY = ("numpy.core", "numpy._core")
# Names that pickled arrays use.
ARRAYS = {
    **{f"{package}.multiarray._reconstruct": StoredArray for package in _NUMPY},
    **{f"{package}.multiarray.scalar": StoredArray.from_number for package in _NUMPY},
    "numpy.ndarray": Inert,
    "numpy.dtype": StoredDType,
}
# Objects that training loops store with the weights: mmengine's log history, command line
# arguments, paths, and dtype classes.
INERT = {
    name: Inert
    for name in (
        "mmengine.logging.history_buffer.HistoryBuffer",
        "mmengine.config.config.ConfigDict",
        "argparse.Namespace",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        *(
            f"numpy.dtypes.{kind}DType"
            for kind in ("Bool", "Int32", "Int64", "Float32", "Float64", "Str")
        ),
        "builtins.getattr",  # for methods of HistoryBuffer
        "__builtin__.getattr",
    )
}
_PICKLED = {
    **ARRAYS,
    **{f"{package}.numeric._frombuffer": StoredArray.from_buffer for package in _NUMPY},
    "_codecs.encode": StoredBytes,
    **{f"{package}.bytes": StoredBytes for package in ("builtins", "__builtin__")},  # empty bytes
    "collections.OrderedDict": collections.OrderedDict,
}


class PlainUnpickler(pickle.Unpickler):
    """Reads arrays and plain values, and refuses all other names."""

    def find_class(self, module, name):
        try:
            return _PICKLED[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} was not allowed") from None
