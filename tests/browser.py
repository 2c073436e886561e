"""A headless Chromium for tests, spoken to over the DevTools protocol."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--no-first-run",
         "--disable-background-networking", "--disable-dev-shm-usage", "--remote-debugging-port=0"]  # fmt: skip
PATIENCE = 60


class Page:
    """One page, and all that its console has complained of."""

    def __init__(self, socket: Any):
        self._socket, self._calls = socket, 0
        self.complaints: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Mapping[str, Any]:
        """The answer to one command; what is told meanwhile is noted."""
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "method": method, "params": params}))
        while True:
            said = json.loads(self._socket.recv(timeout=PATIENCE))
            self._note(said)
            if said.get("id") == self._calls:
                assert "error" not in said, said
                return said["result"]

    def _note(self, said: Mapping[str, Any]) -> None:
        params = said.get("params", {})
        if said.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        if said.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(json.dumps(params["args"]))
        if said.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(params["entry"]["text"])
        if said.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, path: Path, width: int = 1280, height: int = 900) -> None:
        """Load a file and wait until its scripts have run."""
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.run("new Promise(done => document.readyState === 'complete' ? done(1) : addEventListener('load', done))")

    def run(self, code: str) -> Any:
        """The value of an expression, awaited."""
        found = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def type(self, selector: str, text: str) -> None:
        """Put a text into a field, as keys would, in place of what is there."""
        self.run(f"{{ const field = document.querySelector({json.dumps(selector)}); field.focus(); field.select() }}")
        self.call("Input.insertText", text=text) if text else self.call(
            "Input.dispatchKeyEvent", type="keyDown", key="Delete"
        )

    def shot(self, target: Path, whole: bool = True) -> None:
        """A picture of the page."""
        shown = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        target.write_bytes(b64decode(shown["data"]))


@contextmanager
def browser() -> Iterator[Page]:
    """A fresh page of a browser of one's own."""
    from websockets.sync.client import connect

    assert CHROMIUM is not None
    with TemporaryDirectory(ignore_cleanup_errors=True) as home:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={home}", "about:blank"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
            try:
                assert process.stderr is not None
                address = next(
                    found[1] for line in process.stderr if (found := re.search(r"listening on (ws://\S+)", line))
                )
                with connect(_page(address), max_size=None) as socket:
                    yield Page(socket)
            finally:
                process.terminate()
                process.wait(PATIENCE)


def _page(address: str) -> str:
    """Where the first page listens."""
    from urllib.request import urlopen

    where = address.removeprefix("ws://").partition("/")[0]
    with urlopen(f"http://{where}/json/list", timeout=PATIENCE) as answer:
        pages = json.load(answer)
    return next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
