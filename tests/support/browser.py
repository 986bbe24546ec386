"""A headless Chromium, driven by its DevTools protocol.

``Browser`` is the program, ``Page`` a page in it. A page keeps what the browser complains of - errors of
scripts, of the Content-Security-Policy, of loading - and the URLs of all requests.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import websocket

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = "needs Chromium: apt-get install chromium"
WAIT_S = 30.0
# The key codes of `Input.dispatchKeyEvent`.
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " ")}


class BrowserError(AssertionError):
    """The browser refuses a command, or a script in the page has failed."""


class Browser:
    """A running Chromium with a profile of its own."""

    def __init__(self, directory: Path) -> None:
        assert PROGRAM is not None
        port_file = directory / "DevToolsActivePort"
        self._socket = websocket.WebSocket()
        self._process = subprocess.Popen(
            [
                PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
                "--disable-component-update", "--disable-sync", "--disable-extensions",
                "--lang=en-US", "--force-color-profile=srgb", "--remote-allow-origins=*",
                "--remote-debugging-port=0", f"--user-data-dir={directory}", "about:blank",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "TZ": "UTC"},
        )  # fmt: skip
        try:
            lines = until(lambda: port_file.exists() and port_file.read_text().split()[:2])
            assert len(lines) == 2
            self._socket.settimeout(WAIT_S)
            self._socket.connect(f"ws://127.0.0.1:{lines[0]}{lines[1]}", max_size=None)
        except BaseException:
            self.close()
            raise
        self._number = 0
        self._pages: dict[str, Page] = {}

    def close(self) -> None:
        """End it."""
        self._socket.shutdown()
        self._process.kill()
        self._process.wait(10)

    def command(self, method: str, session: str = "", **values: Any) -> dict[str, Any]:
        """Return the result of a command of the protocol; events on the way go to their pages."""
        self._number += 1
        number = self._number
        asked = {"id": number, "method": method, "params": values}
        self._socket.send(json.dumps(asked | ({"sessionId": session} if session else {})))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                if "error" in message:
                    raise BrowserError(f"{method}: {message['error']}")
                return message["result"]
            page = self._pages.get(message.get("sessionId", ""))
            if page is not None and "method" in message:
                page.hear(message["method"], message["params"])

    @contextlib.contextmanager
    def page(
        self, url: str, *, scheme: str = "light", width: int = 1200, height: int = 900
    ) -> Iterator[Page]:
        """Open a URL in a page of its own, with a color scheme."""
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
        session = attached["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            page.command(f"{domain}.enable")
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        page.command("Emulation.setEmulatedMedia", features=features)
        page.command("Emulation.setTimezoneOverride", timezoneId="UTC")
        page.command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        page.command("Page.navigate", url=url)
        try:
            yield page
        finally:
            del self._pages[session]
            self.command("Target.closeTarget", targetId=target)


class Page:
    """A page; ``complaints`` are the browser's, ``requests`` the URLs that were asked for."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def hear(self, method: str, values: dict[str, Any]) -> None:
        """Take an event."""
        if method == "Log.entryAdded" and values["entry"]["level"] in ("warning", "error"):
            self.complaints.append(f"{values['entry']['text']} {values['entry'].get('url', '')}")
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(values["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(values["args"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])

    def command(self, method: str, **values: Any) -> dict[str, Any]:
        """Return the result of a command for this page."""
        return self._browser.command(method, self._session, **values)

    def run(self, script: str) -> Any:
        """Return the value of an expression of JavaScript, a promise awaited."""
        done = self.command(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in done:
            raise BrowserError(json.dumps(done["exceptionDetails"]))
        return done["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """Return the value of an expression once it is true."""
        return until(lambda: self.run(script), script)

    def text(self, selector: str) -> str:
        """Return the text of the first element of a selector."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        code, text = KEYS[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.command("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.command("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Write a text where the focus is."""
        self.command("Input.insertText", text=text)

    def roles(self) -> list[tuple[str, str]]:
        """Return the roles and names that a screen reader finds, in order."""
        nodes = self.command("Accessibility.getFullAXTree")["nodes"]
        return [
            (each["role"]["value"], each.get("name", {}).get("value", ""))
            for each in nodes
            if not each.get("ignored") and "role" in each
        ]

    def picture(self, selector: str = "body", *, most_high: int = 2000) -> bytes:
        """Return a PNG of an element."""
        box = self.run(
            f"(({{x, y, width, height}}) => [x + scrollX, y + scrollY, width, height])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        x, y, width, height = box
        clip = {"x": x, "y": y, "width": width, "height": min(height, most_high), "scale": 1}
        done = self.command("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(done["data"])


def until(condition: Any, what: str = "the browser") -> Any:
    """Return the first true value of a condition."""
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not in {WAIT_S:g} s"
        time.sleep(0.05)
    return found
