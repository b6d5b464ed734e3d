"""Published files, fetched once into Keras' cache."""

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
_ATTEMPTS = 20  # as long as each of them brings something
_TIMEOUT = 60  # seconds without a byte


def fetch_checkpoint(source: str) -> Path:
    """Returns the path of a published file in Keras' cache; fetches it if it is not there.

    The cache is the folder `models` of `~/.keras`, or of `KERAS_HOME`. A download that broke off
    goes on where it stopped. The file is checked whenever it is asked for: by its SHA-256, of which
    OpenMMLab's file names hold the first eight digits. Of Microsoft's files no hash is published:
    their download is checked by the size that the server says.

    Args:
        source: The address of the file.

    Raises:
        ConnectionError: If the file cannot be fetched; the message says what to put where.
        ValueError: If the file has another hash than its name says, or the cache cannot be made.

    Example:
    ```python
    path = fetch_checkpoint(PUBLISHED["dyhead_r50_atss_fpn_1x"].source)
    ```
    """
    path = _cache() / source.rsplit("/", 1)[-1]
    match = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    digits = match[1] if match else ""
    if path.is_file():
        found = sha256_of(path)
        if not found.startswith(digits):
            raise ValueError(
                f"{path} is not the published file: its SHA-256 must begin with {digits}, but "
                f"begins with {found[:8]}. Delete it, and it is fetched from {source}."
            )
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"There can be no folder {path.parent} for published files ({error}): set KERAS_HOME "
            "to another folder than that above it."
        ) from None
    with _one_at_a_time(path):
        if not path.is_file():  # unless another process has fetched it meanwhile
            _fetch(source, path, digits)
    return path


def _fetch(source: str, path: Path, digits: str) -> None:
    part = path.with_name(f"{path.name}.part")
    resumed = part.exists()
    size = _download(source, part, path)
    found = sha256_of(part)
    if resumed and not found.startswith(digits):  # as halves of two files have
        part.unlink()
        size = _download(source, part, path)
        found = sha256_of(part)
    if not found.startswith(digits):
        part.unlink()
        raise ValueError(
            f"{source} is not the published file: its SHA-256 must begin with {digits}, but begins "
            f"with {found[:8]}. Nothing of it is kept. Fetch it elsewhere and put it at {path}"
        )
    part.replace(path)
    checked = f"its SHA-256 begins with {digits}, as it must"
    if not digits:
        checked = "no hash of it is published, but it has the size that the server says"
    if not digits and size is None:
        checked = "neither a hash nor a size says that it is whole"
    Console(stderr=True).print(
        f"fetched {path} ({path.stat().st_size:,} bytes): {checked}", markup=False, soft_wrap=True
    )


def _download(source: str, part: Path, path: Path) -> int | None:
    """Fetches a file, or what is missing of it, and returns the size that the server says."""
    for attempt in range(_ATTEMPTS):
        begun = part.stat().st_size if part.exists() else 0
        try:
            return _fetch_rest(source, part, begun)
        except (OSError, EOFError) as error:  # an answer of HTTP is an OSError, too
            code = getattr(error, "code", None)
            if code == 416 and begun:  # there are no bytes after those
                size = (error.headers.get("Content-Range") or "").rsplit("/", 1)[-1]
                if size == str(begun):
                    return begun
                part.unlink()
                continue
            now = part.stat().st_size if part.exists() else 0
            if now > begun and attempt < _ATTEMPTS - 1:
                continue
            kept = f" {now / 1e6:.1f} MB of it are kept, and the next try goes on from there."
            raise ConnectionError(
                f"{source} could not be fetched ({error}).{kept if now else ''} Where there is no "
                f"network, put the file at {path}, or give the path of your copy: "
                "`load_checkpoint(name, path)`, `keras-dyhead convert NAME FILE OUT.keras`."
            ) from error
    raise ConnectionError(f"{source} could not be fetched in {_ATTEMPTS} tries.")


def _fetch_rest(source: str, part: Path, begun: int) -> int | None:
    headers = {"User-Agent": "keras-dyhead"} | ({"Range": f"bytes={begun}-"} if begun else {})
    request = urllib.request.Request(source, headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        goes_on = begun > 0 and response.status == 206
        length = response.headers.get("Content-Length")
        size = None if length is None else int(length) + (begun if goes_on else 0)
        columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TimeRemainingColumn())
        with (
            open(part, "ab" if goes_on else "wb") as file,
            Progress(*columns, console=Console(stderr=True), transient=True) as progress,
        ):
            bar = progress.add_task(part.stem, total=size, completed=begun if goes_on else 0)
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
    """Has the processes that fetch a file wait for one another, where the system can."""
    lock = path.with_name(f"{path.name}.lock")
    with open(lock, "w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    lock.unlink(missing_ok=True)


def _cache() -> Path:
    """Where Keras keeps models that it fetches."""
    home = Path("~").expanduser()
    if not os.access(home, os.W_OK):
        home = Path(tempfile.gettempdir())
    return Path(os.environ.get("KERAS_HOME", home / ".keras")).expanduser() / "models"


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
