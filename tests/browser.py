"""A headless Chromium driven through the DevTools protocol, over a pair of pipes: no port, no network.

Protocol: JSON messages that end in a zero byte, on descriptors 3 (to the browser) and 4 (from it).
"""

import base64
import contextlib
import itertools
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0
OPTIONS = (
    "--headless", "--no-sandbox", "--no-zygote", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
)  # fmt: skip


def executable() -> Path | None:
    """$CGREFINE_BROWSER, or what `make browser` put beside the Python environment; None if there is none."""
    given = os.environ.get("CGREFINE_BROWSER")
    path = Path(given) if given else Path(sys.prefix) / "browser" / "run"
    if given and not path.is_file():
        raise FileNotFoundError(f"CGREFINE_BROWSER={given}: no such file")
    return path if path.is_file() else None


@dataclass
class Page:
    """One tab. errors: exceptions, console errors, violations of the page's policy; requests: their URLs."""

    process: subprocess.Popen
    send_to: int
    read_from: int
    session: str = ""
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    buffer: bytearray = field(default_factory=bytearray)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to a command; events that come before it are recorded."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.send_to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._record(answer)

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page; of a promise, what it resolves to."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str, patience_s: float = PATIENCE_S) -> None:
        """Until an expression is true in the page."""
        end = time.monotonic() + patience_s
        while not self.evaluate(condition):
            assert time.monotonic() < end, f"after {patience_s:g} s still not: {condition}; {self.errors}"
            time.sleep(0.05)

    def open(self, url: str, width: int, height: int, phone: bool = False, dark: bool = False) -> None:
        """Show a page in a window of this size (CSS pixels), with nothing recorded so far."""
        self.errors.clear()
        self.requests.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, mobile=phone,
                  deviceScaleFactor=2 if phone else 1)  # fmt: skip
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])
        self.call("Page.navigate", url=url)
        self.wait_for(f"document.readyState === 'complete' && location.href === {json.dumps(url)}")

    def press(self, key: str, code: int, text: str = "") -> None:
        """A key goes down and up."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                      text=text if kind == "keyDown" else "")  # fmt: skip

    def click(self, selector: str) -> None:
        """A click of the mouse on the middle of an element, scrolled into view."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{found}.scrollIntoView({{block: 'center', inline: 'center'}})")
        x, y = self.evaluate(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2])({found}.getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        image = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(image))

    def _read(self) -> dict[str, Any]:
        while (end := self.buffer.find(b"\0")) < 0:
            ready, _, _ = select.select([self.read_from], [], [], PATIENCE_S)
            assert ready, f"the browser said nothing for {PATIENCE_S:g} s"
            part = os.read(self.read_from, 1 << 20)
            assert part, f"the browser ended with {self.process.wait()}"
            self.buffer += part
        message = json.loads(self.buffer[:end])
        del self.buffer[: end + 1]
        return message

    def _record(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.errors.append(json.dumps(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.errors.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])


@contextlib.contextmanager
def opened(browser: Path, profile: Path) -> Iterator[Page]:
    """An empty tab of a browser with an empty profile."""
    to_browser, send_to = os.pipe()
    read_from, from_browser = os.pipe()
    shell = f'exec "$0" "$@" 3</dev/fd/{to_browser} 4>/dev/fd/{from_browser}'
    process = subprocess.Popen(
        ["sh", "-c", shell, str(browser), *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(to_browser, from_browser), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(to_browser)
    os.close(from_browser)
    page = Page(process, send_to, read_from)
    try:
        target = page.call("Target.createTarget", url="about:blank")["targetId"]
        page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        yield page
        page.session = ""
        page.call("Browser.close")
    finally:
        os.close(send_to)
        os.close(read_from)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
