"""Opening checkpoint files of every kind, without running any code they may hold."""

import contextlib
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from keras_dyhead.checkpoints.plain_values import ARRAYS, INERT, PlainUnpickler, StoredArray

_SAFETENSORS = ".safetensors"
# What a file begins with that is no checkpoint.
_OTHER_KINDS = (
    (rb"\s*<(!doctype|html|\?xml)", "a web page, not a checkpoint: the download went wrong"),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file itself: `git lfs pull` it"),
    (rb"\s*[{\[]\s*[\"{\[]", "a JSON file, not a checkpoint"),
    (rb"\x89HDF", "an HDF5 file, not a checkpoint of PyTorch"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8", "an image, not a checkpoint"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf", "a compressed file: unpack it first"),
)
# PyTorch's files before 1.6 are several pickles, of which the first is this number.
_OLD_PYTORCH = re.compile(rb"\x80.(?:\x95.{8})?\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL)


def open_checkpoint(path: Path) -> Mapping:
    """Returns the content of a file: names to arrays, tensors and whatever else it has.

    Files called `.safetensors`, in capitals or not, are read as such, and those that begin as such
    do. All others are zip files of PyTorch, its older files, or pickles of NumPy arrays; which one
    is seen in the file.

    Args:
        path: Path of the file.

    Raises:
        ValueError: If the file is missing, empty, damaged, of another kind, or holds more than
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
    header = int.from_bytes(head[:8], "little")  # its size: any number that the file has room for
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
    """The tensors of a safetensors file; each is read when asked for.

    Args:
        path: Path of the file.

    Attributes:
        metadata: The texts that the file has beside the tensors.
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
        self.metadata = self._file.metadata() or {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._names:
            raise KeyError(name)
        array = self._file.get_tensor(name)
        return array if array.dtype.kind in "biu" else array.astype("float32", copy=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def as_array(value) -> np.ndarray | None:
    """Returns what a file has under a name as an array, floats as float32; `None` for the rest."""
    if isinstance(value, StoredArray):
        value = value.array
    elif hasattr(value, "detach"):  # a tensor
        value = value.detach()
        value = (value.float() if value.is_floating_point() else value).numpy()
    if not isinstance(value, np.ndarray):
        return None
    return value if value.dtype.kind in "biu" else value.astype("float32", copy=False)


def _check_zip(path):
    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, UnicodeDecodeError):
        raise ValueError(
            f"{path} is cut off or damaged: its end has no list of its contents."
        ) from None
    if "config.json" in names and any(name.startswith("model.weights") for name in names):
        raise ValueError(
            f"{path} is a Keras model, not a PyTorch checkpoint: `keras.saving.load_model` and the "
            "commands' `--model` take it as it is."
        )
    if any(name.endswith("constants.pkl") for name in names):
        raise ValueError(
            f"{path} is a TorchScript program, not a checkpoint: save its tensors alone, "
            "torch.save(torch.jit.load(path).state_dict(), other_path)."
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise ValueError(f"{path} is a zip file without a checkpoint in it. It has {names[:5]}.")


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
    known = [(value, name) for name, value in (ARRAYS | INERT).items()]
    with _errors_of(path), torch.serialization.safe_globals(known):
        mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


@contextlib.contextmanager
def _errors_of(path):
    """Has the error of an unreadable file name the file, and what it asked for."""
    try:
        yield
    except Exception as error:  # what a damaged file raises differs from version to version
        # "... Unsupported global: GLOBAL os.system was not ..." or "... GLOBAL os.system whose ..."
        match = re.search(r"GLOBAL (\S+) (?:was|whose)", str(error))
        if match is None:
            raise ValueError(
                f"{path} is damaged or no PyTorch checkpoint: {_last_line(error)}"
            ) from error
        raise ValueError(
            f"{path} was refused: besides tensors it holds {match[1]!r}, and loading that could "
            "run any code. Nothing of it was run. If the file comes from a source you trust, save "
            "its tensors alone, where it was made: torch.save(model.state_dict(), path)."
        ) from error


def _last_line(error):
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
