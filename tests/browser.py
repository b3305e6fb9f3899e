"""A headless Chromium, spoken to over its DevTools pipe: no driver and no port needed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

PATIENCE = 120
"""Seconds without a word after which it is given up."""


class Browser:
    """One page of a browser; ``complaints`` collects errors, console messages and whatever it fetched elsewhere."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out, self._in, self._rest, self._number = to_browser, from_browser, b"", 0
        self._loaded = False
        self.complaints: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable", self._session)

    def show(self, path: Path | str, width: int = 1280, height: int = 900, dark: bool = False, media: str = "") -> None:
        """Open a file or an address in a window of that size, or as on paper (``print``); wait until it is loaded."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", self._session, media=media, features=features)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", self._session, **size)
        self._loaded = False
        self._call("Page.navigate", self._session, url=path if isinstance(path, str) else path.resolve().as_uri())
        while not self._loaded:
            self._receive()
        self.evaluate("Promise.all([...document.images].map(i => i.decode().catch(() => 0))).then(() => 1)")

    def evaluate(self, script: str) -> Any:
        """Return what a script comes to in the page."""
        answer = self._call("Runtime.evaluate", self._session, expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Take a picture of the whole page."""
        answer = self._call("Page.captureScreenshot", self._session, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        """End the browser."""
        self._send("Browser.close", None, {})

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        number = self._send(method, session, parameters)
        while True:
            message = self._receive()
            if message.get("id") == number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    def _send(self, method: str, session: str | None, parameters: dict[str, Any]) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        return self._number

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._in], [], [], PATIENCE)[0], f"the browser says nothing for {PATIENCE} s"
            part = os.read(self._in, 1 << 20)
            assert part, "the browser ended"
            self._rest += part
        text, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, details: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event in (
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
            "Network.loadingFailed",
        ):
            self.complaints.append(json.dumps(details))
        elif event == "Network.requestWillBeSent" and not details["request"]["url"].startswith(("file:", "data:")):
            self.complaints.append(details["request"]["url"])


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Start a browser with an empty profile and end it."""
    assert CHROMIUM is not None
    to_browser, from_browser = os.pipe(), os.pipe()
    # Chromium looks for the pipe at 3 and 4: numbers that may be taken here, but not in the child.
    read, write = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser[0], from_browser[1]))
    switches = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    trampoline = f"import os, sys; os.dup2({read}, 3); os.dup2({write}, 4); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", trampoline, CHROMIUM, *switches, "--remote-debugging-pipe"]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(read, write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (read, write, to_browser[0], from_browser[1]):
        os.close(end)
    try:
        browser = Browser(to_browser[1], from_browser[0])
        yield browser
        browser.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
    finally:
        process.kill()
        process.wait()
        os.close(to_browser[1])
        os.close(from_browser[0])
