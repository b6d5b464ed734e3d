"""Downloads published files once into Keras' cache."""

import contextlib
import hashlib
import http.client
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import DownloadColumn, Progress, TimeRemainingColumn

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

_CHUNK = 1 << 20
_ATTEMPTS = 20  # if each of them makes progress
_TIMEOUT = 60  # seconds without a byte


def fetch_checkpoint(source: str) -> Path:
    """Returns the path of a published file in Keras' cache, after downloading it if needed.

    The cache is the folder `models` in `~/.keras` or `KERAS_HOME`. Interrupted downloads resume.
    OpenMMLab's file names contain the first eight digits of the SHA-256, which every call verifies.
    Microsoft published no hashes: its files must begin like PyTorch's, and the size of the download
    must be the one that the server reports.

    Args:
        source: URL of the file.

    Raises:
        ConnectionError: If the download fails. The message says where to put the file instead.
        ValueError: If the file is not the published one, or the cache cannot be used.

    Example:
    ```python
    path = fetch_checkpoint(PUBLISHED["dyhead_r50_atss_fpn_1x"].source)
    ```
    """
    path = keras_home() / "models" / source.rsplit("/", 1)[-1]
    match = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    digits = match[1] if match else ""
    try:
        if path.is_file():
            if fault := _fault(path, digits):
                raise ValueError(
                    f"{path} is not the published file: {fault}. Delete it to download {source} "
                    "again."
                )
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(path):
            if not path.is_file():  # another process may have downloaded it
                _fetch(source, path, digits)
    except ConnectionError:
        raise
    except OSError as error:
        raise ValueError(
            f"Published files cannot be kept in {path.parent} ({error}). Set KERAS_HOME to a "
            "folder in which you can write."
        ) from None
    return path


def _fault(path: Path, digits: str) -> str | None:
    """Returns why a file cannot be the published one, or `None`."""
    if digits:
        found = sha256_of(path)[: len(digits)]
        if found != digits:
            return f"its SHA-256 must begin with {digits}, but begins with {found}"
        return None
    with open(path, "rb") as file:
        begin = file.read(2)
    if begin == b"PK" or begin[:1] == b"\x80":  # a zip archive or a pickle
        return None
    return f"a PyTorch file begins with b'PK' or b'\\x80', this one with {begin!r}"


def _fetch(source: str, path: Path, digits: str) -> None:
    part = path.with_name(f"{path.name}.part")
    resumed = part.exists()
    size = _download(source, part, path)
    fault = _fault(part, digits)
    if fault and resumed:  # the file may have changed in between
        part.unlink()
        size = _download(source, part, path)
        fault = _fault(part, digits)
    if fault:
        part.unlink()
        raise ValueError(
            f"{source} is not the published file: {fault}. It was deleted. Get the file elsewhere "
            f"and put it at {path}"
        )
    part.replace(path)
    checked = f"its SHA-256 begins with {digits}, as expected"
    if not digits:
        checked = "no hash is published, but it has the size that the server reports"
    if not digits and size is None:
        checked = "neither a hash nor a size is known to check it"
    Console(stderr=True).print(
        f"downloaded {path} ({path.stat().st_size:,} bytes): {checked}",
        markup=False,
        soft_wrap=True,
    )


def _download(source: str, part: Path, path: Path) -> int | None:
    """Downloads a file or the rest of it, and returns the size that the server reports."""
    for attempt in range(_ATTEMPTS):
        offset = part.stat().st_size if part.exists() else 0
        try:
            return _fetch_rest(source, part, offset)
        except (OSError, EOFError, http.client.HTTPException) as error:
            code = getattr(error, "code", None)
            if code == 416 and offset:  # no bytes are left
                size = (error.headers.get("Content-Range") or "").rsplit("/", 1)[-1]
                if size == str(offset):
                    return offset
                part.unlink()
                continue
            now = part.stat().st_size if part.exists() else 0
            if now != offset and attempt < _ATTEMPTS - 1:
                continue
            kept = f" {now / 1e6:.1f} MB are kept, and the next attempt resumes from there."
            raise ConnectionError(
                f"{source} could not be downloaded ({error}).{kept if now else ''} Without a "
                f"network, put the file at {path}, or pass the path of your copy: "
                "`load_checkpoint(name, path)`, `keras-dyhead convert NAME FILE OUT.keras`."
            ) from error
    raise ConnectionError(f"{source} could not be downloaded in {_ATTEMPTS} attempts.")


def _fetch_rest(source: str, part: Path, offset: int) -> int | None:
    headers = {"User-Agent": "keras-dyhead"} | ({"Range": f"bytes={offset}-"} if offset else {})
    request = urllib.request.Request(source, headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        resumes = offset > 0 and response.status == 206
        given = response.headers.get("Content-Range", "")
        if resumes and not given.startswith(f"bytes {offset}-"):
            part.unlink()
            raise EOFError(f"the server resumed at {given!r} instead of byte {offset}")
        length = response.headers.get("Content-Length")
        size = None if length is None else int(length) + (offset if resumes else 0)
        columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TimeRemainingColumn())
        with (
            open(part, "ab" if resumes else "wb") as file,
            Progress(*columns, console=Console(stderr=True), transient=True) as progress,
        ):
            bar = progress.add_task(part.stem, total=size, completed=offset if resumes else 0)
            while chunk := response.read1(_CHUNK):  # keeps what arrived before an error
                file.write(chunk)
                progress.advance(bar, len(chunk))
            file.flush()
            os.fsync(file.fileno())
            if size is not None and file.tell() < size:
                raise EOFError(f"the connection ended after {file.tell()} of {size} bytes")
    return size


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Makes processes that download the same file wait for each other, except on Windows."""
    lock = path.with_name(f"{path.name}.lock")
    with open(lock, "w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    lock.unlink(missing_ok=True)


def keras_home() -> Path:
    """Returns the folder where Keras stores what it downloads."""
    home = Path("~").expanduser()
    if not os.access(home, os.W_OK):
        home = Path(tempfile.gettempdir())
    return Path(os.environ.get("KERAS_HOME", home / ".keras")).expanduser()


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
