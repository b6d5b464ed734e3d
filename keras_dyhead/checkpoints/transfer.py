"""Copies the tensors of a PyTorch state dict into Keras weights, following tables of names."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

# Last part of a Keras weight's path -> last part of a PyTorch tensor's name.
LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_SHOWN = 20


@dataclasses.dataclass(frozen=True)
class Part:
    """Some layers of a model, and a table of their names in a state dict.

    Args:
        weights: The Keras variables by path, see `weights_by_path`.
        table: Paths to names without prefixes, both with placeholders for numbers. A row is for a
            layer (`"block_{b}/conv_1": "layer.{b}.conv1"`, see `LEAVES` for the rest) or a single
            weight (`"gate/kernel": "gate.1.weight"`). Names may compute with numbers: `{b-1}`,
            `{2*b+1}`.
        prefix: Prefix of the names in the state dict. Defaults to `""`.
        reorder: For paths that match a pattern, a function that takes and returns the array in
            PyTorch's layout. Defaults to none.
        optional: Patterns of paths whose weights may lack a tensor and then do not change.
    """

    weights: Mapping[str, keras.Variable]
    table: Mapping[str, str]
    prefix: str = ""
    reorder: Mapping[str, Callable[[np.ndarray], np.ndarray]] = dataclasses.field(
        default_factory=dict
    )
    optional: Sequence[str] = ()

    def tensor_name(self, path: str) -> str | None:
        """Returns the tensor name of a weight, or `None` if no row fits."""
        for template, name in self.table.items():
            match = _pattern(template).fullmatch(path)
            if match is None:
                continue
            leaf = match["leaf"]
            name = _fill(name, match.groupdict())
            return self.prefix + (f"{name}.{LEAVES.get(leaf, leaf)}" if leaf else name)
        return None

    def array(self, path: str, tensor) -> np.ndarray:
        """Returns a tensor in the layout of the weight at `path`."""
        array = np.asarray(tensor)
        for pattern, function in self.reorder.items():
            if re.fullmatch(pattern, path):
                array = function(array)
        shape = tuple(self.weights[path].shape)
        if path.endswith("kernel"):
            if len(shape) == 4 and array.ndim == 4:  # OIHW -> HWIO
                return array.transpose(2, 3, 1, 0)
            if len(shape) == 2 and array.shape[2:] in ((), (1, 1)):  # OI or OI11 -> IO
                return array.reshape(array.shape[:2]).T
        if array.size == np.prod(shape) == 1:  # a scalar, as () or (1,)
            return array.reshape(shape)
        return array


def copy_tensors(
    parts: Sequence[Part],
    state: Mapping[str, np.ndarray],
    unused: Sequence[str] = (),
    what: str = "state dict",
) -> None:
    """Sets every weight of the parts from a state dict without other tensors.

    Tensors are in PyTorch's layout. `unused` are patterns of names to ignore. Errors name `what`.

    Raises:
        ValueError: If a weight has no tensor, a tensor no weight, or shapes differ. The message
            lists them, and no weight is changed.
    """
    sources, problems = {}, []
    for part in parts:
        for path, variable in part.weights.items():
            name = part.tensor_name(path)
            if name is None or name not in state:
                if any(re.fullmatch(pattern, path) for pattern in part.optional):
                    continue
                missing = "of this kind" if name is None else name
                problems.append(f"{path}: no tensor {missing} in the state")
                continue
            shape = part.array(path, state[name]).shape
            if shape != tuple(variable.shape):
                problems.append(
                    f"{path}: expected shape {tuple(variable.shape)}, received {shape} from {name}"
                )
            if name in sources:
                problems.append(f"{path}: {name} is already used")
            sources[name] = part, path
    pattern = re.compile("|".join(unused) or r"(?!)")
    problems += [
        f"{name}: the model has no such weight"
        for name in state
        if name not in sources and not pattern.fullmatch(name)
    ]
    if problems:
        more = [f"... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        listing = "\n  ".join([*problems[:_SHOWN], *more])
        raise ValueError(
            f"The {what} does not fit the model. Nothing was loaded. Problems: {len(problems)}"
            f"\n  {listing}"
        )
    for name, (part, path) in sources.items():
        part.weights[path].assign(part.array(path, state[name]))


def weights_by_path(layer: keras.Layer) -> dict[str, keras.Variable]:
    """Returns the weights of a layer or model by their paths relative to it."""
    return {
        f"/{variable.path}".rsplit(f"/{layer.name}/", 1)[-1].removeprefix("/"): variable
        for variable in layer.weights
    }


@functools.cache
def _pattern(template: str) -> re.Pattern:
    named = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\d+)", re.escape(template))
    return re.compile(rf"{named}(?:/(?P<leaf>\w+))?")


def _fill(name: str, numbers: Mapping[str, str]) -> str:
    """Replaces `{n}`, `{n-1}`, `{2*n+1}` with numbers."""

    def number(match):
        factor, key, summand = match.groups()
        return str(int(factor or 1) * int(numbers[key]) + int(summand or 0))

    return re.sub(r"\{(?:(\d+)\*)?([a-z]\w*)([+-]\d+)?\}", number, name)
