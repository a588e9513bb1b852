"""A headless Chromium, spoken to over a pipe (Chrome DevTools Protocol), so that tests need no package for it.

With `--remote-debugging-pipe` the browser reads JSON messages, each ended by a zero byte, on descriptor 3 and answers on 4.
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 60


def find() -> str | None:
    """The browser named by $BROWSER_FOR_TESTS, or the first Chromium on the path."""
    return os.environ.get("BROWSER_FOR_TESTS") or next(filter(None, map(shutil.which, NAMES)), None)


LAUNCH = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execvp(sys.argv[3], sys.argv[3:])"
"""Gives the pipes the numbers that the browser wants; a shell would do, but dash knows no number above 9."""


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are neither 3 nor 4."""
    low = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low]
    for end in low:
        os.close(end)
    return high[0], high[1]


class Browser:
    """One browser with one page. `complaints` are errors and warnings of its console and requests that failed or left files."""

    def __init__(self, program: str):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # its helpers outlive it a moment, and write
        to_browser, self._write = _pipe()
        self._read, from_browser = _pipe()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                LAUNCH,
                str(to_browser),
                str(from_browser),
                program,
                *FLAGS,
                f"--user-data-dir={self.profile.name}",
            ],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self.session = b"", 0, None
        self.complaints: list[str] = []
        self.loaded = False
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait(PATIENCE)
        os.close(self._write)
        os.close(self._read)
        self.profile.cleanup()

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        """Set the screen's size (below 600: a phone) and colour scheme."""
        phone = width < 600
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Go to a page and wait until all of it, pictures too, is there."""
        self.loaded = False
        answer = self.send("Page.navigate", url=url)
        assert "errorText" not in answer, f"{url}: {answer['errorText']}"
        while not self.loaded:
            self._receive()

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression on the page; a promise is waited for."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """The first true value of an expression."""
        end = time.monotonic() + PATIENCE
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"still false after {PATIENCE} s: {script}"
            time.sleep(0.05)
        return value

    def picture(self, path: Path, whole: bool = False) -> None:
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def send(self, method: str, **parameters) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        wanted = self._number
        while True:
            answer = self._receive()
            if answer.get("id") == wanted:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _receive(self) -> dict:
        while b"\0" not in self._buffer:
            piece = os.read(self._read, 1 << 16)
            assert piece, f"the browser ended with status {self.process.poll()}"
            self._buffer += piece
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, facts: dict) -> None:
        if event == "Page.loadEventFired":
            self.loaded = True
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(str(facts["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning", "assert"):
            self.complaints.append(f"console: {[x.get('value', x.get('description')) for x in facts['args']]}")
        elif event == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{facts['entry']['text']} {facts['entry'].get('url', '')}")
        elif event == "Network.loadingFailed" and not facts.get("canceled"):
            self.complaints.append(f"failed: {facts['errorText']}")
        elif event == "Network.requestWillBeSent" and facts["request"]["url"].split(":")[0] not in ("file", "data", "about"):
            self.complaints.append(f"asks the network: {facts['request']['url']}")


FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # as root, and where user namespaces are not allowed; it opens our own pages only
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
