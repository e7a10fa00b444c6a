"""A real Chromium without a screen, driven by its own protocol over two pipes."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from waiting import wait

_COMPLAINTS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")


class Browser:
    """One browser with one page."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, back: int) -> None:
        self._process, self._to, self._back = process, to, os.fdopen(back, "rb")
        self._number, self._session, self._rest = 0, None, b""
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the answer to a command of the DevTools protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._read()
            if heard.get("method") in _COMPLAINTS:
                self.complaints.append(json.dumps(heard["params"]))
            if heard.get("id") == self._number:
                assert "error" not in heard, heard["error"]
                return heard["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = self._back.raw.read(1 << 20)
            assert more, "the browser has ended"
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        return json.loads(text)

    def run(self, program: str) -> Any:
        """Return the value of a JavaScript expression in the page; a promise is waited for."""
        told = self.call("Runtime.evaluate", expression=program, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def open(self, link: str) -> None:
        """Open a page, and wait until it is there."""
        self.complaints.clear()
        self.call("Page.navigate", url="about:blank")
        wait(lambda: self.run("location.href") == "about:blank", "the last page is gone")
        self.call("Page.navigate", url=link)
        wait(lambda: self.run("document.readyState === 'complete' && location.href !== 'about:blank'"), link)

    def wait(self, program: str) -> Any:
        """Wait until a JavaScript expression is true; return its value."""
        return wait(lambda: self.run(program), program)

    def press(self, key: str) -> None:
        """Press a key, and let go of it."""
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **(text if kind == "keyDown" else {}))

    def click(self, x: float, y: float) -> None:
        """Press the mouse at a place of the window, and let go of it there."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self, path: Path, wide: int, high: int, *, dark: bool = False) -> None:
        """Write what is to be seen as a PNG."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Emulation.setDeviceMetricsOverride", width=wide, height=high, deviceScaleFactor=1, mobile=False)
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Yield a browser; without one, skip, unless this is the CI."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None and "CI" not in os.environ:
        pytest.skip("there is no Chromium")
    assert program is not None, "there is no Chromium"
    (hears, to), (back, tells) = os.pipe(), os.pipe()
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-extensions",
        "--no-proxy-server",
    ]
    command = [program, *flags, f"--user-data-dir={folder}", "--remote-debugging-pipe", "about:blank"]
    # The browser wants them as 3 and 4.
    shell = f'exec "$@" 3<&{hears} 4>&{tells}'
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", *command],
        pass_fds=(hears, tells),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(hears)
    os.close(tells)
    try:
        yield Browser(process, to, back)
    finally:
        os.close(to)
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
