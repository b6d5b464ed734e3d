"""Published files are downloaded once, completely, and verified."""

import concurrent.futures
import hashlib
import http.server
import socket
import struct
import threading

import pytest

from keras_dyhead.checkpoints import COMPOSED, fetch_checkpoint, load_checkpoint

CONTENT = b"PK" + bytes(range(256)) * 5000
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]


class Server(http.server.ThreadingHTTPServer):
    """Serves one file, and truncates the first responses.

    With `resets`, it resets the connection then; `chunked` responses have no length; `shift` bytes
    are missing before the point from which a download resumes.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.breaks, self.ranges, self.lengths = CONTENT, [], True, True
        self.asked, self.resets, self.chunked, self.shift = [], False, False, 0

    def address(self, name):
        return f"http://127.0.0.1:{self.server_address[1]}/models/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, begin = self.server, 0
        asked = self.headers.get("Range")
        server.asked.append(asked)
        if "missing" in self.path:
            return self.send_error(404)
        if asked and server.ranges:
            begin = int(asked.removeprefix("bytes=").rstrip("-"))
            if begin >= len(server.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.content)}")
                return self.end_headers()
        self.send_response(206 if begin else 200)
        if begin:
            begin += server.shift
            end = len(server.content)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{end}")
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif server.lengths:
            self.send_header("Content-Length", str(len(server.content) - begin))
        self.end_headers()
        content, size = server.content[begin:], server.breaks.pop(0) if server.breaks else None
        if server.chunked:
            content = b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
        self.wfile.write(content[:size])
        self.wfile.flush()
        if server.resets and size is not None:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "keras" / "models"


GOOD = f"atss_20211219-{DIGITS}.pth"


def test_a_file_is_downloaded_once(server, cache, capsys):
    path = fetch_checkpoint(server.address(GOOD))
    assert path == cache / GOOD and path.read_bytes() == CONTENT
    assert f"its SHA-256 begins with {DIGITS}, as expected" in capsys.readouterr().err
    assert fetch_checkpoint(server.address(GOOD)) == path
    assert server.asked == [None]
    assert [file.name for file in cache.iterdir()] == [GOOD]


def test_only_one_of_several_processes_downloads(server, cache):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(fetch_checkpoint, [server.address(GOOD)] * 4))
    assert [path.read_bytes() == CONTENT for path in paths] == [True] * 4
    assert server.asked == [None]


def test_the_size_of_a_file_without_a_published_hash_is_checked(server, capsys):
    assert fetch_checkpoint(server.address("a.pth")).read_bytes() == CONTENT
    assert "no hash is published, but it has the size" in capsys.readouterr().err
    server.lengths = False
    fetch_checkpoint(server.address("b.pth"))
    assert "neither a hash nor a size is known" in capsys.readouterr().err


def test_an_interrupted_download_resumes(server):
    server.breaks = [100_000, 50_000]
    assert fetch_checkpoint(server.address(GOOD)).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


@pytest.mark.parametrize("way", ["resets", "chunked"])
def test_what_arrived_before_any_kind_of_error_is_kept(server, way):
    setattr(server, way, True)
    server.breaks = [100_000, 50_000]
    assert fetch_checkpoint(server.address(GOOD)).read_bytes() == CONTENT
    first, second, third = (int(asked[6:-1]) for asked in [*server.asked, "bytes=0-"][1:])
    assert 0 < first < second and third == 0


def test_a_download_that_resumes_elsewhere_starts_again(server, cache):
    """Also if no hash would show that bytes are missing."""
    cache.mkdir(parents=True)
    (cache / "a.pth.part").write_bytes(CONTENT[:70_000])
    server.shift = 10
    assert fetch_checkpoint(server.address("a.pth")).read_bytes() == CONTENT
    assert server.asked == ["bytes=70000-", None]


def test_a_reply_that_is_not_http_is_an_error_of_the_network(server, monkeypatch):
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.wfile.write(b"SSH-2.0\r\n\r\n"))
    with pytest.raises(ConnectionError, match="could not be downloaded .SSH-2.0"):
        fetch_checkpoint(server.address(GOOD))


@pytest.mark.parametrize("content", [b"<html>Please log in</html>", b""])
def test_a_page_in_place_of_a_file_without_a_hash_is_refused(server, cache, content):
    server.content = content
    with pytest.raises(ValueError, match="is not the published file: a PyTorch file begins with"):
        fetch_checkpoint(server.address("a.pth"))
    assert not [file for file in cache.iterdir() if file.suffix != ".lock"]
    (cache / "a.pth").write_bytes(content)
    with pytest.raises(ValueError, match="is not the published file.*Delete it"):
        fetch_checkpoint(server.address("a.pth"))


def test_a_server_that_cannot_resume_is_asked_for_the_whole_file(server):
    server.breaks, server.ranges = [100_000], False
    assert fetch_checkpoint(server.address(GOOD)).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_failed_download_resumes_in_the_next_call(server, cache):
    server.breaks = [400_000, *[0] * 9]
    with pytest.raises(ConnectionError, match=f"0.4 MB are kept.*put the file at .*{GOOD}"):
        fetch_checkpoint(server.address(GOOD))
    assert not (cache / GOOD).exists()
    server.breaks = []
    assert fetch_checkpoint(server.address(GOOD)).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=400000-"


@pytest.mark.parametrize("part", [CONTENT[:70_000][::-1], CONTENT + b"more", CONTENT])
def test_any_partial_file_is_completed_or_replaced(server, cache, part):
    """Part of another file, longer than the file, and complete except for its name."""
    cache.mkdir(parents=True)
    (cache / f"{GOOD}.part").write_bytes(part)
    assert fetch_checkpoint(server.address(GOOD)).read_bytes() == CONTENT


def test_a_file_with_other_content_is_refused_and_not_kept(server, cache):
    server.content = CONTENT[:-1]
    with pytest.raises(ValueError, match=f"must begin with {DIGITS}, but begins with .*put it at"):
        fetch_checkpoint(server.address(GOOD))
    assert not [file for file in cache.iterdir() if file.suffix != ".lock"]
    (cache / GOOD).write_bytes(b"put there by hand")
    with pytest.raises(ValueError, match="is not the published file.*Delete it"):
        fetch_checkpoint(server.address(GOOD))


def test_without_a_network_the_error_says_where_to_put_the_file(server, cache):
    source = server.address(GOOD)
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError) as error:
        fetch_checkpoint(source)
    for text in (source, f"put the file at {cache / GOOD}", "load_checkpoint(name, path)"):
        assert text in str(error.value)
    (cache / GOOD).write_bytes(CONTENT)
    assert fetch_checkpoint(source).read_bytes() == CONTENT


def test_a_file_that_the_server_does_not_have_is_named(server):
    with pytest.raises(
        ConnectionError, match="missing.pth could not be downloaded .HTTP Error 404"
    ):
        fetch_checkpoint(server.address("missing.pth"))


def test_a_cache_that_cannot_be_used_is_named(server, cache, tmp_path, monkeypatch):
    for path in (cache / f"{GOOD}.lock", cache / GOOD):  # as if they could not be written
        path.mkdir(parents=True)
        with pytest.raises(ValueError, match="cannot be kept in .*models .*Set KERAS_HOME"):
            fetch_checkpoint(server.address(GOOD))
        path.rmdir()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match="cannot be kept in .*models .*Set KERAS_HOME"):
        fetch_checkpoint(server.address(GOOD))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "a" / "b"))
    path = fetch_checkpoint(server.address(GOOD))
    assert path == tmp_path / "a" / "b" / "models" / GOOD


def test_models_without_published_weights_say_so():
    for name in COMPOSED:
        with pytest.raises(ValueError, match="No weights of .* are published: pass the `path`"):
            load_checkpoint(name)
