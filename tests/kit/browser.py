"""A real browser without a window, asked over its own protocol: what a page loads, complains of, and looks like."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE_S = 300.0  # only bounds a hang: what takes seconds alone takes a minute where everybody tests
SWITCHES = (
    "--headless=new",
    "--no-sandbox",  # a container has no other user to be
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-port=0",
)
WHY_NOT = "no chromium is installed: `make browser` asks apt-get for it"


def installed() -> str | None:
    """The browser of this machine; TAUTEN_BROWSER names another."""
    return os.environ.get("TAUTEN_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Seen:
    """What one page did. `asked` are addresses other than its own; `complaints` is what the console said."""

    width: int
    scroll_width: int
    asked: list[str]
    complaints: list[str]
    picture: Image.Image
    names: list[tuple[str, str]]  # (role, name), as a screen reader has them
    answer: Any = None  # of the script that was run in it


class Browser:
    """One browser with one tab; stopped on the way out, whatever happened."""

    def __init__(self) -> None:
        self._next = 0
        self._events: list[dict[str, Any]] = []
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [str(installed()), *SWITCHES, f"--user-data-dir={self._home.name}", "about:blank"]
        # the browser writes to a file, not a pipe: nobody empties it later
        self._log = Path(self._home.name) / "stderr"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        try:
            self._connect()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        self._stop()

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._home.cleanup()

    # -- pages -----------------------------------------------------------------------------------------------

    def look(self, page: Path, width: int, *, dark: bool = False, script: str = "null") -> Seen:
        """Open a file in a tab of its own; `script` is run once it is loaded, before anything is looked at."""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        tab = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._events.clear()
        for domain in ("Network", "Log", "Runtime", "Page", "Accessibility"):
            self._ask(f"{domain}.enable", tab)
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            tab,
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", tab, features=[scheme])
        address = page.resolve().as_uri()
        self._ask("Page.navigate", tab, url=address)
        self._until("Page.loadEventFired")
        answer = self._evaluate(tab, script)
        wide, high = self._evaluate(
            tab, "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
        )
        seen = Seen(
            width,
            int(wide),
            [asked for asked in self._asked() if asked != address],
            self._complaints(),
            self._picture(tab, max(width, int(wide)), int(high)),
            self._names(tab),
            answer,
        )
        self._ask("Target.closeTarget", targetId=target)
        return seen

    def _evaluate(self, tab: str, script: str) -> Any:
        found = self._ask("Runtime.evaluate", tab, expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def _picture(self, tab: str, width: int, height: int) -> Image.Image:
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self._ask(
            "Page.captureScreenshot",
            tab,
            format="png",
            captureBeyondViewport=True,
            optimizeForSpeed=True,
            clip=clip,
        )
        return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")

    def _names(self, tab: str) -> list[tuple[str, str]]:
        nodes = self._ask("Accessibility.getFullAXTree", tab)["nodes"]
        told = [node for node in nodes if not node.get("ignored")]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in told]

    def _asked(self) -> list[str]:
        sent = (event for event in self._events if event["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]

    def _complaints(self) -> list[str]:
        """Errors and warnings of the console, refusals of the content policy among them, and what was thrown."""
        told = []
        for event in self._events:
            if event["method"] == "Log.entryAdded":
                told.append(event["params"]["entry"]["text"])
            elif event["method"] in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
                told.append(json.dumps(event["params"]))
            elif event["method"] == "Page.javascriptDialogOpening":
                told.append(f"dialog: {event['params']['message']}")
        return told

    # -- the protocol ----------------------------------------------------------------------------------------

    def _connect(self) -> None:
        wanted = connect(self._address(), max_size=None, open_timeout=PATIENCE_S)
        self._socket: ClientConnection = self._open.enter_context(wanted)

    def _address(self) -> str:
        """Where the browser listens, as it says once it does."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and self._process.poll() is None:
            found = re.search(r"DevTools listening on (ws://\S+)", self._log.read_text(errors="replace"))
            if found is not None:
                return found[1]
            time.sleep(0.05)
        raise AssertionError(f"the browser did not start: {self._log.read_text(errors='replace')[-2000:]}")

    def _ask(self, method: str, tab: str = "", **parameters: Any) -> dict[str, Any]:
        self._next += 1
        question = {"id": self._next, "method": method, "params": parameters}
        self._socket.send(json.dumps({**question, "sessionId": tab} if tab else question))
        while (told := self._receive()).get("id") != self._next:
            pass
        assert "error" not in told, (method, told["error"])
        result: dict[str, Any] = told["result"]
        return result

    def _until(self, event: str) -> None:
        while all(each["method"] != event for each in self._events):
            self._receive()

    def _receive(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self._socket.recv(PATIENCE_S))
        if "method" in told:
            self._events.append(told)
        return told
