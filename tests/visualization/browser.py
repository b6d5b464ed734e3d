"""A headless Chromium, controlled through two pipes with its DevTools protocol."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_chromium() -> str | None:
    """The path of Chromium, from the search path or Playwright's downloads."""
    on_path = filter(None, map(shutil.which, NAMES))
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache/ms-playwright")
    downloaded = [*cache.glob("chromium*/*/chrome"), *cache.glob("chromium*/*/headless_shell")]
    return next(iter([*on_path, *map(str, sorted(downloaded))]), None)


class Tab:
    """A page of a browser that takes commands and returns answers and events."""

    def __init__(self, commands, messages):
        self._commands, self._messages = commands, messages
        self._count, self._session = 0, None
        self.events = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = session["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        """Runs a command and returns its result. Events in the meantime are kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _receive(self):
        text = bytearray()
        while (byte := self._messages.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("the browser has closed the connection")
            text += byte
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, url, width=1280, height=900, dark=False):
        """Loads a page in a window of this size and collects its events in `events`."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        self.events.clear()
        self.send("Page.navigate", url=url)
        while not self._saw("Page.loadEventFired"):
            self._receive()
        # After two frames, late layout and requests have begun.
        self.value("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")

    def value(self, expression):
        """The value of a JavaScript expression in the page, also of a promise."""
        result = self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        return result["result"].get("value")

    def _saw(self, method):
        return any(event["method"] == method for event in self.events)

    def requests(self):
        """The addresses that the page requested, without itself and data inside it."""
        urls = [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
            and event["params"].get("type") != "Document"
        ]
        return [url for url in urls if not url.startswith("data:")]

    def complaints(self):
        """Console output: messages, warnings, errors, exceptions."""
        told = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event["params"] for event in self.events if event["method"] in told]


@contextlib.contextmanager
def open_browser(program):
    """Starts the browser with an empty profile, yields a `Tab` and ends the browser."""
    (read_commands, write_commands), (read_messages, write_messages) = os.pipe(), os.pipe()

    def connect():  # the browser reads from descriptor 3 and writes to 4
        ends = os.dup(read_commands), os.dup(write_messages)
        os.dup2(ends[0], 3)
        os.dup2(ends[1], 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                *(program, "--headless", "--no-sandbox", "--disable-gpu"),
                *("--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"),
                *("--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"),
            ],
            preexec_fn=connect,
            close_fds=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_messages)
        try:
            with open(write_commands, "wb") as commands, open(read_messages, "rb") as messages:
                yield Tab(commands, messages)
        finally:
            process.kill()
            process.wait()
