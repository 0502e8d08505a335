"""Plays an exported page in headless Chromium and counts the pictures that it shows."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

from persona.data.export.extras import extra
from persona.errors import UserError

_START_S, _ANSWER_S = 60.0, 600.0
_MEASURED = 9
"""Frames whose parts the page itself measures before it plays."""
_READY = "document.body?.dataset.ms || ''"
_DRAWN_BY = """(() => {
  const gl = document.querySelector('canvas').getContext('webgl2');
  const info = gl.getExtension('WEBGL_debug_renderer_info');
  return gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER);
})()"""
_COUNTED = """new Promise((done) => {
  let frames = -1, began = 0;
  const tick = () => {
    const now = performance.now();
    if (++frames === 0) began = now;
    if (now - began >= SECONDS * 1000 && frames) done(frames * 1000 / (now - began));
    else requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
})"""


@dataclass(frozen=True)
class PageRate:
    """What was measured; milliseconds are medians."""

    drawn_by: str
    """What the browser draws with: a GPU, or its software."""
    count: int
    """Number of Gaussians."""
    frames_per_s: float
    """Pictures shown while the motion plays; at most what the screen shows, mostly 60."""
    host_ms: float
    """Of the page's thread, a frame."""
    order_ms: float
    """Of the worker, an order."""
    whole_ms: float
    """Of a frame, until it is drawn and read back."""


def browser() -> str | None:
    """Chromium's program; None without one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def page_rate(page: Path, size: str, seconds: float, software: bool, profile: Path) -> PageRate:
    """Opens a page of ``format=html`` and lets its motion play.

    Args:
        page: The page.
        size: Width and height of the picture in pixels, as ``480x640``.
        seconds: How long frames are counted; at least two frames are.
        software: Keeps the browser from a GPU.
        profile: An empty folder for the browser.

    Raises:
        UserError: no such page, no Chromium, no websockets, or the page does not run.
    """
    if not page.is_file():
        raise UserError(f"{page}: no such page; scripts/export.py format=html writes one")
    address = f"{page.resolve().as_uri()}#bare&size={size}&time={_MEASURED}"
    with browsed(address, software, profile) as tab:
        return _measured(tab, seconds)


class Tab:
    """A page in a browser.

    Args:
        socket: What the browser's debugger speaks by.
        address: The page's address.
    """

    def __init__(self, socket: Any, address: str):
        self.address, self._socket, self._numbers = address, socket, count(1)

    def ask(self, method: str, **values: Any) -> Any:
        """Result of a command of the debugger.

        Raises:
            UserError: the browser refuses.
        """
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": values}))
        while (told := json.loads(self._socket.recv(timeout=_ANSWER_S))).get("id") != number:
            pass  # Events that nobody asked for.
        if "error" in told:
            raise UserError(
                f"{self.address}: Chromium refuses {method}: {told['error'].get('message')}; try "
                "another release of it"
            )
        return told["result"]

    def value(self, text: str) -> Any:
        """Value of a JavaScript expression, awaited.

        Raises:
            UserError: it fails or has none.
        """
        told = self.ask("Runtime.evaluate", expression=text, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told or "value" not in told["result"]:
            result = told["result"]  # Of what is thrown, too, which may be a bare string.
            why = str(result.get("description") or result.get("value") or "no value")
            why = why.splitlines()[0]
            raise UserError(
                f"{self.address}: {text.strip()[:40]!r} fails there ({why}); export it again"
            )
        return told["result"]["value"]


@contextmanager
def browsed(address: str, software: bool, profile: Path) -> Iterator[Tab]:
    """A page in headless Chromium, which ends with the context.

    Args:
        address: The page's address.
        software: Keeps the browser from a GPU.
        profile: An empty folder for the browser.

    Raises:
        UserError: no Chromium, no websockets, or the browser does not answer.
    """
    program = browser()
    if program is None:
        raise UserError("no Chromium here; install it (Debian: apt-get install chromium)")
    extra("websockets", "viewer")
    drawing = ["--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    process = subprocess.Popen(
        [program, "--headless=new", "--no-sandbox", "--hide-scrollbars", "--mute-audio",
         "--force-device-scale-factor=1", "--remote-debugging-port=0", "--window-size=1280,1280",
         f"--user-data-dir={profile}", *(drawing if software else ()), "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = until(lambda: _port(profile), _START_S, "Chromium does not start")
        with _opened(port, address) as tab:
            yield tab
    finally:
        _end(process)


def _end(process: subprocess.Popen, limit_s: float = 10.0) -> None:
    process.terminate()
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _opened(port: int, address: str) -> Iterator[Tab]:
    """Lets the browser behind a port open an address.

    Raises:
        UserError: the browser does not answer.
    """
    # Of an optional extra, which only this needs.
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    try:
        target = until(lambda: _target(port), _START_S, "Chromium opens no page")
        with connect(target, max_size=None, proxy=None) as socket:
            tab = Tab(socket, address)
            tab.ask("Page.navigate", url=address)
            yield tab
    except (OSError, WebSocketException) as error:
        raise UserError(
            f"{address}: Chromium does not answer ({error}); close other programs and try again"
        ) from error


def _target(port: int) -> str | None:
    """Where the browser's page is spoken to; None without one."""
    direct = build_opener(ProxyHandler({}))
    with direct.open(f"http://127.0.0.1:{port}/json", timeout=_START_S) as answer:
        pages = [t for t in json.load(answer) if t["type"] == "page"]
    return pages[0]["webSocketDebuggerUrl"] if pages else None


def _measured(tab: Tab, seconds: float) -> PageRate:
    """What a page of ``format=html`` says while its motion plays.

    Raises:
        UserError: the page does not run.
    """
    until(lambda: tab.value(_READY), _ANSWER_S, f"{tab.address}: the page does not run")
    frames_per_s = float(tab.value(_COUNTED.replace("SECONDS", str(seconds))))
    times = [float(tab.value(f"document.body.dataset.{n}")) for n in ("host", "order", "ms")]
    return PageRate(str(tab.value(_DRAWN_BY)), int(tab.value("meta.count")), frames_per_s, *times)


def _port(profile: Path) -> int | None:
    """The port that Chromium has written into its profile."""
    path = profile / "DevToolsActivePort"
    lines = path.read_text().splitlines() if path.is_file() else []
    return int(lines[0]) if lines else None


def until(get: Callable[[], Any], limit_s: float, told: str) -> Any:
    """The first true value.

    Raises:
        UserError: there was none in time.
    """
    end = time.monotonic() + limit_s
    while not (value := get()):
        if time.monotonic() > end:
            raise UserError(f"{told} in {limit_s:.0f} s; close other programs and try again")
        time.sleep(0.2)
    return value
