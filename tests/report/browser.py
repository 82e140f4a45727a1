"""Headless Chromium over its debugging pipe: what a page asked for, what it complained about, what a script finds in it."""

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
)

# becomes Chromium after its pipe's two ends, given by number, have become descriptors 3 and 4
_PLUG_IN = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


def executable() -> str:
    """PARIBUS_CHROMIUM, or a Chromium on the PATH; without one, CI fails and a developer's machine skips."""
    names = (os.environ.get("PARIBUS_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found:
        return found
    message = "no Chromium: set PARIBUS_CHROMIUM to its path, or install the package `chromium`"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


class Browser:
    """One tab. Commands wait for their answer; what the page does meanwhile is kept in `events`."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out = to_browser
        self._in = os.fdopen(from_browser, "rb", buffering=0)
        self._rest = b""
        self._id = 0
        self._session = ""
        self.events: list[dict[str, Any]] = []
        self.shows: tuple[Path, int, str] | None = None
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        self._id += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._id, "method": method, "params": params, **session}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self.events.append(answer)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.command("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, page: Path, width: int = 1280, scheme: str = "light") -> None:
        """Show a page and wait until each of its figures is drawn."""
        self.events.clear()
        self.shows = (page, width, scheme)
        is_phone = width < 600
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=is_phone
        )
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.command("Page.navigate", url=page.resolve().as_uri())
        self.until(f"document.documentElement?.dataset?.ready === '{scheme}'")

    def until(self, condition: str) -> None:
        ready = self.evaluate(
            f"new Promise(done => {{ const end = Date.now() + 20000; const ask = () => ({condition}) ? done(true) : "
            "Date.now() > end ? done(false) : setTimeout(ask, 30); ask(); })"
        )
        assert ready, f"not within 20 s: {condition}; {self.complaints()}"

    def complaints(self) -> list[str]:
        """Everything on the console, warnings included, and every uncaught exception."""
        lines = []
        for event in self.events:
            params = event.get("params", {})
            if event["method"] == "Runtime.consoleAPICalled":
                lines.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
            elif event["method"] == "Runtime.exceptionThrown":
                lines.append(str(params["exceptionDetails"].get("exception", params["exceptionDetails"])))
            elif event["method"] == "Log.entryAdded":
                lines.append(f"{params['entry']['level']}: {params['entry']['text']}")
        return lines

    def requests(self) -> list[str]:
        """Every address that the page asked for."""
        asked = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith("data:")]

    def press(self, key: str, text: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key=key, text=text, windowsVirtualKeyCode=code)

    def move(self, x: float, y: float) -> None:
        self.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path: Path, full: bool = True) -> None:
        image = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(image["data"]))

    def print(self) -> bytes:
        """The page as PDF, as a browser's print dialog makes it."""
        return base64.b64decode(self.command("Page.printToPDF", printBackground=True)["data"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            chunk = self._in.read(1 << 16)
            assert chunk, "Chromium has gone"
            self._rest += chunk
        message, self._rest = self._rest.split(b"\0", 1)
        return dict(json.loads(message))


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """A browser with a new profile, ended with the block. Its pipe is descriptors 3 (to it) and 4 (from it)."""
    read_theirs, write_ours = os.pipe()
    read_ours, write_theirs = os.pipe()
    read_theirs, write_theirs = _raised(read_theirs), _raised(write_theirs)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [executable(), *FLAGS.split(), f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            [sys.executable, "-c", _PLUG_IN, str(read_theirs), str(write_theirs), *command],
            pass_fds=(read_theirs, write_theirs),
            stderr=subprocess.DEVNULL,
        )
        os.close(read_theirs)
        os.close(write_theirs)
        try:
            yield Browser(write_ours, read_ours)
        finally:
            os.close(write_ours)  # Chromium ends when its pipe does
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _raised(descriptor: int) -> int:
    """The same file under a number of 10 or more, so that it is neither 3 nor 4."""
    raised = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return raised
