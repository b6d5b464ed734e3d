"""Reads the tensors and class names of a checkpoint."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from keras_dyhead.checkpoints.open_file import SafetensorsFile, as_array, open_checkpoint
from keras_dyhead.checkpoints.plain_values import StoredArray

# Keys of the tensors in files. timm and similar packages store averages next to the weights. In
# mmengine, `state_dict` has the averages, and `ema_state_dict` the weights and a counter, `steps`.
_AVERAGES = re.compile(r"(?:^|_)(?:ema|swa|averaged?)(?:_|$)")
_WRAPPERS = "state_dict", "model", "module"
_CLASSES = ("classes", "CLASSES", "class_names")
# Parts of names that wrappers around a module add, anywhere in a name.
_INSIDE = re.compile(
    r"(?:(?<=\.)|^)"
    r"(?:module|_(?:orig_mod|forward_module|(?:fsdp|checkpoint)_wrapped_module))\."
)
# Names of whole models inside others. The first one in a file is used: if a teacher is the average
# of a student, the teacher is evaluated.
_AROUND = (
    *("architecture", "teacher", "modelTeacher"),
    *("ema", "ema_model", "model_ema", "averaged_model", "average_model", "swa_model"),
    *("student", "modelStudent", "model", "_model", "detector", "net", "network", "pl_module"),
)
_COUNTERS = ("n_averaged", "steps")


def read_state_dict(path) -> Mapping[str, np.ndarray]:
    """Reads the tensors of a PyTorch checkpoint, a safetensors file or a pickle of arrays.

    No code in the file is run: `torch.load(weights_only=True)` opens `.pth` files, and a reader
    that knows only arrays and plain values opens detectron2's `.pkl` files of NumPy arrays. Files
    with anything else are refused. PyTorch files are memory-mapped if their format allows it, so
    that they are not copied into memory as a whole.

    Additions of training tools to names are removed: `module.`, `_orig_mod.`, and a prefix such as
    `model.` or `teacher.`. The `ema_...` copies of mmdetection 2 are left out.

    Args:
        path: Path, or mapping of tensor name to array or tensor, possibly nested as in files.

    Returns:
        Mapping of tensor name to array in PyTorch's layout, with floating point tensors as float32.
        For `{"state_dict": ..., "meta": ...}` (OpenMMLab), `{"model": ...}` (detectron2) and the
        like, it is the inner mapping. If a file also has averaged weights, they are returned.

    Raises:
        ValueError: If the file is missing, empty, damaged or of another kind, or contains more than
            tensors and plain values, no tensors, or several models.
        ImportError: If PyTorch 2.6 (or safetensors, for a file of that kind) is not installed.

    Example:
    ```python
    state = read_state_dict("atss_r50_fpn_dyhead_4x4_1x_coco_20211219_023314-eaa620c6.pth")
    state["bbox_head.atss_cls.weight"].shape  # (80, 256, 3, 3)
    ```
    """
    return read_checkpoint(path)[0]


def read_checkpoint(path) -> tuple[Mapping[str, np.ndarray], list[str] | None]:
    """Reads tensors as `read_state_dict` does, and the class names if the file has them.

    mmdetection stores them in `meta`, as `CLASSES` or as `classes` of `dataset_meta`. detectron2
    does not store them.
    """
    if isinstance(path, Mapping):
        if any(isinstance(value, Mapping) or _is_tensor(value) for value in path.values()):
            return _plain_names(_tensors_of(path, "The mapping")), _class_names(path)
        return _plain_names(path), None
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            "A checkpoint must be a path or a mapping of tensor name to array. "
            f"Received: {type(path)}"
        )
    path = Path(path)
    content = open_checkpoint(path)
    if isinstance(content, SafetensorsFile):
        return _plain_names(content), _class_names(content.metadata)
    return _plain_names(_tensors_of(content, path)), _class_names(content)


def _tensors_of(content, path):
    inner = content
    while isinstance(inner, Mapping):
        keys = [k for k in inner if "optim" not in str(k) and _holds_tensors(inner[k])]
        found = [key for key in keys if _AVERAGES.search(str(key))]
        if {"state_dict", "ema_state_dict"} <= set(keys) and "steps" in inner["ema_state_dict"]:
            found.remove("ema_state_dict")
        found = found or [key for key in _WRAPPERS if key in keys][:1]
        if not found and not any(map(_is_tensor, inner.values())):
            found = [key for key in _AROUND if key in keys][:1] or keys
        if len(found) > 1:
            raise ValueError(
                f"{path} contains several models: {found}. Save the tensors of only one, or pass "
                "its mapping of names to tensors."
            )
        if not found:
            break
        inner = inner[found[0]]
    if not isinstance(inner, Mapping) or not inner:
        raise ValueError(
            f"{path} contains no mapping of names to tensors. Received: {type(inner).__name__}"
        )
    arrays = {name: as_array(value, name) for name, value in inner.items() if isinstance(name, str)}
    state = {name: array for name, array in arrays.items() if array is not None}
    if not state:
        raise ValueError(f"{path} contains no tensors, only {sorted(map(str, inner))[:10]}.")
    return state


def _is_tensor(value) -> bool:
    return isinstance(value, StoredArray) or hasattr(value, "detach")


def _holds_tensors(value) -> bool:
    return isinstance(value, Mapping) and any(
        isinstance(name, str) and (_is_tensor(x) or isinstance(x, np.ndarray) or _holds_tensors(x))
        for name, x in value.items()
    )


def _class_names(content) -> list[str] | None:
    """Returns the class names in the order of labels, or `None` if there are no valid ones."""
    places = [content]
    for key in ("meta", "dataset_meta"):
        places += [place[key] for place in places if isinstance(place.get(key), Mapping)]
    for place in reversed(places):
        for key in _CLASSES:
            names = place.get(key)
            if isinstance(names, str):  # JSON in safetensors, or a tuple without its comma
                try:
                    names = json.loads(names)
                except ValueError:
                    names = [names]
            if isinstance(names, Mapping) and all(str(label).isdecimal() for label in names):
                names = [names[label] for label in sorted(names, key=int)]
            are_names = isinstance(names, Sequence) and all(isinstance(n, str | int) for n in names)
            if are_names and names:
                return list(map(str, names))
    return None


def _plain_names(state: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Returns the tensors by their names in the detector itself."""
    names = {_INSIDE.sub("", name): name for name in state if name not in _COUNTERS}
    copies = {f"ema_{name.replace('.', '_')}" for name in names}
    names = {name: stored for name, stored in names.items() if name not in copies}
    while True:
        around = [key for key in _AROUND if any(name.startswith(f"{key}.") for name in names)]
        if not around:
            break
        inner = f"{around[0]}."
        outside = tuple(f"{key}." for key in around)
        names = {
            **{n: stored for n, stored in names.items() if not n.startswith(outside)},
            **{n.removeprefix(inner): stored for n, stored in names.items() if n.startswith(inner)},
        }
    if list(names.items()) == [(name, name) for name in state]:
        return state
    return _Renamed(state, names)


class _Renamed(Mapping):
    """A mapping with other names. Values are read on access."""

    def __init__(self, values: Mapping, names: Mapping[str, str]):
        self._values = values
        self._names = names

    def __getitem__(self, name):
        return self._values[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
