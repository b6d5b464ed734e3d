"""Opens checkpoint files of every kind without running code in them."""

import contextlib
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from keras_dyhead.checkpoints.plain_values import ARRAYS, INERT, PlainUnpickler, StoredArray

_SAFETENSORS = ".safetensors"
# First bytes of files that are not checkpoints.
_OTHER_KINDS = (
    (rb"(\xef\xbb\xbf)?\s*<", "a web page, not a checkpoint: the download went wrong"),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file itself: `git lfs pull` it"),
    (rb"\s*[{\[]\s*[\"{\[]", "a JSON file, not a checkpoint"),
    (rb"\x89HDF", "an HDF5 file, not a checkpoint of PyTorch"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8", "an image, not a checkpoint"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf", "a compressed file: unpack it first"),
)
# Files from PyTorch before 1.6 are several pickles. The first is this number.
_OLD_PYTORCH = re.compile(rb"\x80.(?:\x95.{8})?\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL)


def open_checkpoint(path: Path) -> Mapping:
    """Returns the content of a file: a mapping of names to arrays, tensors and other values.

    The content decides the format: safetensors, zip file of PyTorch, older file of PyTorch, or
    pickle of NumPy arrays. The suffix `.safetensors`, in any case, also selects safetensors.

    Raises:
        ValueError: If the file is missing, empty, damaged, of another kind, or contains more than
            tensors, arrays and plain values.
        ImportError: If PyTorch 2.6 (or safetensors, for a file of that kind) is not installed.
    """
    if not path.is_file():
        is_folder = path.is_dir()
        raise ValueError(f"{path} is a folder." if is_folder else f"There is no file {path}.")
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        raise ValueError(f"{path} is empty.")
    header = int.from_bytes(head[:8], "little")  # its size must fit in the file
    is_safetensors = head[8:10] == b'{"' and header < path.stat().st_size
    is_safetensors |= path.suffix.lower() == _SAFETENSORS
    for pattern, kind in _OTHER_KINDS[: 2 if is_safetensors else None]:
        if re.match(pattern, head, re.IGNORECASE):
            raise ValueError(f"{path} is {kind}. It begins with {head.lstrip()[:60]!r}.")
    if is_safetensors:
        return SafetensorsFile(path)
    if head.startswith(b"PK"):
        _check_zip(path)
    elif not _OLD_PYTORCH.match(head):
        with open(path, "rb") as file, _errors_of(path):
            return PlainUnpickler(file, encoding="latin1").load()
    return _load_torch(path)


class SafetensorsFile(Mapping):
    """The tensors of a safetensors file, each read on access."""

    def __init__(self, path: str | os.PathLike):
        try:
            import safetensors
        except ImportError as error:
            raise ImportError(
                f"Reading {path} needs safetensors: `pip install '.[convert]'` in a clone."
            ) from error
        try:
            self._file = safetensors.safe_open(path, framework="numpy")
        except Exception as error:  # the library's own class, or OSError
            raise ValueError(f"{path} is not an intact safetensors file: {error}") from error
        self._names = self._file.keys()
        self.metadata = self._file.metadata() or {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        try:
            array = self._file.get_tensor(name)
        except (AttributeError, TypeError) as error:  # a dtype that NumPy does not have
            raise ValueError(
                f"The tensor {name!r} has a dtype that cannot be read: {error}"
            ) from None
        return _plain_numbers(array, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def as_array(value, name: str) -> np.ndarray | None:
    """Converts a value of a file to an array, floats to float32. Returns `None` for others.

    Raises:
        ValueError: If it is a tensor without plain numbers. The message has its `name`.
    """
    if isinstance(value, StoredArray):
        value = value.array
    elif hasattr(value, "detach"):  # a tensor
        try:
            value = value.detach()
            value = (value.float() if value.is_floating_point() else value).numpy()
        except (NotImplementedError, RuntimeError, TypeError) as error:  # quantized, sparse, meta
            raise ValueError(f"The tensor {name!r} has no plain numbers: {error}") from None
    return _plain_numbers(value, name) if isinstance(value, np.ndarray) else None


def _plain_numbers(array, name):
    if array.dtype.kind == "c":
        raise ValueError(f"The tensor {name!r} has no plain numbers: they are complex")
    return array if array.dtype.kind in "biu" else array.astype("float32", copy=False)


def _check_zip(path):
    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, UnicodeDecodeError):
        raise ValueError(
            f"{path} is truncated or damaged: it has no list of contents at its end."
        ) from None
    if "config.json" in names and any(name.startswith("model.weights") for name in names):
        raise ValueError(
            f"{path} is a Keras model, not a PyTorch checkpoint. Load it with "
            "`keras.saving.load_model` or the commands' `--model`."
        )
    if any(name.endswith("constants.pkl") for name in names):
        raise ValueError(
            f"{path} is a TorchScript program, not a checkpoint. Save only its tensors: "
            "torch.save(torch.jit.load(path).state_dict(), other_path)."
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise ValueError(f"{path} is a zip file without a checkpoint. It contains {names[:5]}.")


def _load_torch(path):
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"Reading {path} needs PyTorch (the CPU build is enough): "
            "`pip install '.[convert]'` in a clone. The converted model does not need it."
        ) from error
    if torch.__version__ < (2, 6):  # compares versions, not strings
        raise ImportError(
            "Reading checkpoints safely needs PyTorch 2.6: files can make earlier versions run "
            f"code despite `weights_only` (CVE-2025-32434). Installed: {torch.__version__}"
        )
    known = [(value, name) for name, value in (ARRAYS | INERT).items()]
    with _errors_of(path), torch.serialization.safe_globals(known):
        mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


@contextlib.contextmanager
def _errors_of(path):
    """Adds the file, and what it tried to load, to the error of an unreadable file."""
    try:
        yield
    except Exception as error:  # damaged files raise different errors in different versions
        # "... Unsupported global: GLOBAL os.system was not ..." or "... GLOBAL os.system whose ..."
        match = re.search(r"GLOBAL (\S+) (?:was|whose)", str(error))
        if match is None:
            told = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
            raise ValueError(f"{path} is damaged or not a PyTorch checkpoint: {told}") from error
        raise ValueError(
            f"{path} was refused: besides tensors, it contains {match[1]!r}. Loading that could "
            "run any code. None was run. If you trust its source, save only its tensors where it "
            "was made: torch.save(model.state_dict(), path)."
        ) from error
