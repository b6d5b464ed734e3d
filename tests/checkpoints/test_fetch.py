"""Published files are downloaded once, completely, and verified."""

import concurrent.futures
import hashlib
import http.server
import threading

import pytest

from keras_dyhead.checkpoints import COMPOSED, fetch_checkpoint, load_checkpoint

CONTENT = bytes(range(256)) * 5000
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]


class Server(http.server.ThreadingHTTPServer):
    """Serves one file, and truncates the first responses."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.breaks, self.ranges, self.lengths = CONTENT, [], True, True
        self.asked = []

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
        if server.lengths:
            self.send_header("Content-Length", str(len(server.content) - begin))
        self.end_headers()
        end = begin + server.breaks.pop(0) if server.breaks else None
        self.wfile.write(server.content[begin:end])

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


def test_a_cache_that_cannot_be_created_is_named(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ValueError, match="Cannot create the folder .*models.*Set KERAS_HOME"):
        fetch_checkpoint(server.address(GOOD))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "a" / "b"))
    path = fetch_checkpoint(server.address(GOOD))
    assert path == tmp_path / "a" / "b" / "models" / GOOD


def test_models_without_published_weights_say_so():
    for name in COMPOSED:
        with pytest.raises(ValueError, match="No weights of .* are published: pass the `path`"):
            load_checkpoint(name)
