"""Headless Chromium for tests of pages: opened, asked, clicked and typed into over the DevTools protocol."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--mute-audio",
    "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """Headless Chromium, spoken to over a pair of pipes in the messages of its DevTools."""

    def __init__(self, folder: Path) -> None:
        command = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        assert command, "these tests need the command chromium"
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        line = [command, *SWITCHES, f"--user-data-dir={folder}", "about:blank"]
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'  # where Chromium looks for its pipes
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *line],
            pass_fds=(theirs_in, theirs_out),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._left, self._number = b"", 0
        self.events: list[dict[str, Any]] = []
        (page, *_) = (each for each in self.send("Target.getTargets")["targetInfos"] if each["type"] == "page")
        self._session = None
        self._session = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for room in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{room}.enable")

    _session: str | None = None

    def send(self, method: str, **parameters: Any) -> Any:
        """Ask for something and wait for the answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            more = os.read(self._in, 1 << 16)
            assert more, "Chromium ended"
            self._left += more
        line, _, self._left = self._left.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found

    def open(self, path: Path, width: int = 1100, dark: bool = False) -> None:
        """Load a page from a file and wait until it is there."""
        self.events.clear()
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def run(self, expression: str) -> Any:
        """The value of an expression on the page."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            codes = {"ArrowRight": 39, "ArrowDown": 40, "Tab": 9, "Home": 36, "End": 35}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def requests(self) -> list[str]:
        """Addresses that were asked for since the page was opened."""
        self.run("1")  # whatever happened until now has been told
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[Any]:
        """Errors and refused requests that the browser noted."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [event for event in self.events if event.get("method") in kinds]

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def numbers_in(color: str) -> list[float]:
    """The numbers of a color in CSS."""
    return [float(number) for number in re.findall(r"[\d.]+", color)]


def luminance(color: list[float]) -> float:
    """How light a color is, from 0 to 1 (WCAG 2)."""
    parts = [part / 255 for part in color[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
