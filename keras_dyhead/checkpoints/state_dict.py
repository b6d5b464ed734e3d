"""Reading the tensors of a checkpoint file without running any code it may hold."""

import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

# What training loops put beside the weights (mmengine's log history, numpy's numbers). Files may
# name these, and get an `_Inert` for them: nothing of what they name is imported or called.
INERT_GLOBALS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmengine.config.config.ConfigDict",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    *(
        f"numpy.dtypes.{kind}DType"
        for kind in ("Bool", "Int32", "Int64", "Float32", "Float64", "Str")
    ),
    "builtins.getattr",  # how pickle refers to the methods of HistoryBuffer
    "__builtin__.getattr",
)
_WRAPPERS = ("state_dict", "model")  # OpenMMLab; detectron2 and timm
_SAFETENSORS = ".safetensors"


def read_state_dict(path) -> Mapping[str, np.ndarray]:
    """Reads the tensors of a PyTorch checkpoint or a safetensors file.

    `.pth` files (and `.pt`, `.pkl`: anything not called `.safetensors`) are opened by
    `torch.load(weights_only=True)`, which builds tensors and plain values only: a file that asks
    for anything else is refused before its code could run. Files stay memory-mapped where their
    format allows it, so that they are not copied into memory as a whole.

    Args:
        path: Path of the file; or a mapping of tensor name to array, which is returned as it is.

    Returns:
        Mapping of tensor name to array, in PyTorch's layout; floating point tensors as float32. Of
        `{"state_dict": ..., "meta": ...}` (OpenMMLab) and `{"model": ...}` (detectron2) it is the
        inner one.

    Raises:
        ValueError: If the file is missing, empty, damaged, of another kind, holds more than tensors
            and plain values, or no tensors.
        ImportError: If PyTorch 2.6 (or safetensors, for a file of that kind) is not installed.

    Example:
    ```python
    state = read_state_dict("atss_r50_fpn_dyhead_4x4_1x_coco_20211219_023314-eaa620c6.pth")
    state["bbox_head.atss_cls.weight"].shape  # (80, 256, 3, 3)
    ```
    """
    if isinstance(path, Mapping):
        return path
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            "A checkpoint must be a path, or a mapping of tensor name to array. "
            f"Received: {type(path)}"
        )
    path = Path(path)
    _check_file(path)
    if path.suffix == _SAFETENSORS:
        return SafetensorsFile(path)
    return _tensors_of(_load_torch(path), path)


class SafetensorsFile(Mapping):
    """The tensors of a safetensors file; each is read when asked for.

    Args:
        path: Path of the file.
    """

    def __init__(self, path: str | os.PathLike):
        try:
            import safetensors
        except ImportError as error:
            raise ImportError(
                f"Reading {path} needs safetensors: `pip install '.[convert]'` in a clone."
            ) from error
        try:
            self._file = safetensors.safe_open(path, framework="numpy")
        except Exception as error:  # of the library's own class, and OSError
            raise ValueError(f"{path} is no intact safetensors file: {error}") from error
        self._names = self._file.keys()

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        array = self._file.get_tensor(name)
        return array if array.dtype.kind in "biu" else array.astype("float32", copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Inert:
    """Stands for an object that has no part in the weights; does and keeps nothing."""

    def __new__(cls, *arguments):
        return super().__new__(cls)

    def __setstate__(self, state):
        pass


def _check_file(path):
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        raise ValueError(f"{path} is empty.")
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(
            f"{path} is a web page, not a checkpoint: the download went wrong. It begins with "
            f"{head.lstrip()[:60]!r}."
        )
    if head.startswith(b"PK") and not _is_zip(path):
        raise ValueError(f"{path} is cut off: its end, with the list of its contents, is missing.")


def _is_zip(path):
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def _load_torch(path):
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"Reading {path} needs PyTorch, of which the CPU build will do: "
            "`pip install '.[convert]'` in a clone. The converted model does not need it."
        ) from error
    if torch.__version__ < (2, 6):  # compares versions, not strings
        raise ImportError(
            "Reading checkpoints safely needs PyTorch 2.6: earlier ones can be made to run code "
            f"despite `weights_only` (CVE-2025-32434). Installed: {torch.__version__}"
        )
    inert = [(_Inert, name) for name in INERT_GLOBALS]
    try:
        with torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        # "... Unsupported global: GLOBAL os.system was not ..." or "... GLOBAL os.system whose ..."
        match = re.search(r"GLOBAL (\S+) (?:was|whose)", str(error))
        if match is None:
            raise ValueError(f"{path} is no PyTorch checkpoint: {_last_line(error)}") from error
        raise ValueError(
            f"{path} was refused: besides tensors it holds {match[1]!r}, and loading that could "
            "run any code. Nothing of it was run. If the file comes from a source you trust, save "
            "its tensors alone, where it was made: torch.save(model.state_dict(), path)."
        ) from error
    except Exception as error:  # what a damaged file raises differs from version to version
        raise ValueError(
            f"{path} is damaged or no PyTorch checkpoint: {_last_line(error)}"
        ) from error


def _tensors_of(content, path):
    import torch

    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise ValueError(
            f"{path} holds no mapping of names to tensors. Received: {type(content).__name__}"
        )
    state = {}
    for name, tensor in content.items():
        if isinstance(tensor, torch.Tensor):
            tensor = tensor.detach()
            state[name] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    if not state:
        raise ValueError(f"{path} holds no tensors, only {sorted(map(str, content))[:10]}.")
    return state


def _last_line(error):
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
