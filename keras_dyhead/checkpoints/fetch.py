"""Downloads published files once into Keras' cache."""

import contextlib
import hashlib
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
    Microsoft published no hashes: for its files, the size of the download is checked against the
    size that the server reports.

    Args:
        source: URL of the file.

    Raises:
        ConnectionError: If the download fails. The message says where to put the file instead.
        ValueError: If the hash differs from the one in the name, or the cache cannot be created.

    Example:
    ```python
    path = fetch_checkpoint(PUBLISHED["dyhead_r50_atss_fpn_1x"].source)
    ```
    """
    path = keras_home() / "models" / source.rsplit("/", 1)[-1]
    match = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    digits = match[1] if match else ""
    if path.is_file():
        found = sha256_of(path)
        if not found.startswith(digits):
            raise ValueError(
                f"{path} is not the published file: its SHA-256 must begin with {digits}, but "
                f"begins with {found[:8]}. Delete it to download {source} again."
            )
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"Cannot create the folder {path.parent} for published files ({error}). Set "
            "KERAS_HOME to another folder than its parent."
        ) from None
    with _one_at_a_time(path):
        if not path.is_file():  # another process may have downloaded it
            _fetch(source, path, digits)
    return path


def _fetch(source: str, path: Path, digits: str) -> None:
    part = path.with_name(f"{path.name}.part")
    resumed = part.exists()
    size = _download(source, part, path)
    found = sha256_of(part)
    if resumed and not found.startswith(digits):  # the file may have changed in between
        part.unlink()
        size = _download(source, part, path)
        found = sha256_of(part)
    if not found.startswith(digits):
        part.unlink()
        raise ValueError(
            f"{source} is not the published file: its SHA-256 must begin with {digits}, but begins "
            f"with {found[:8]}. It was deleted. Get the file elsewhere and put it at {path}"
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
        except (OSError, EOFError) as error:  # HTTP errors are OSErrors too
            code = getattr(error, "code", None)
            if code == 416 and offset:  # no bytes are left
                size = (error.headers.get("Content-Range") or "").rsplit("/", 1)[-1]
                if size == str(offset):
                    return offset
                part.unlink()
                continue
            now = part.stat().st_size if part.exists() else 0
            if now > offset and attempt < _ATTEMPTS - 1:
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
        length = response.headers.get("Content-Length")
        size = None if length is None else int(length) + (offset if resumes else 0)
        columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TimeRemainingColumn())
        with (
            open(part, "ab" if resumes else "wb") as file,
            Progress(*columns, console=Console(stderr=True), transient=True) as progress,
        ):
            bar = progress.add_task(part.stem, total=size, completed=offset if resumes else 0)
            while chunk := response.read(_CHUNK):
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
