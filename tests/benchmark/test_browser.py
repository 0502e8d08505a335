"""What a browser may do instead of playing a page is told in one line."""

import json
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from persona.benchmark import browser as module
from persona.benchmark.browser import page_rate
from persona.errors import UserError

server = pytest.importorskip("websockets.sync.server", reason="needs the extra viewer")
BARE = {"result": {"type": "string", "value": "Invalid header"}, "exceptionDetails": {}}
THROWN = {"result": {"description": "TypeError: x is null\n  at y"}, "exceptionDetails": {}}


@contextmanager
def devtools(answer, pages=1):
    """A browser that answers commands so; the port it listens at."""

    def speak(socket):
        for text in socket:
            told = json.loads(text)
            if (said := answer(told["method"], told["params"].get("expression", ""))) is not None:
                socket.send(json.dumps({"id": told["id"], **said}))

    def targets(connection, request):
        if request.path != "/json":
            return None
        url = f"ws://127.0.0.1:{port}/page"
        return connection.respond(
            200, json.dumps([{"type": "page", "webSocketDebuggerUrl": url}] * pages)
        )

    with server.serve(speak, "127.0.0.1", 0, process_request=targets) as running:
        port = running.socket.getsockname()[1]
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield port
        running.shutdown()
        thread.join()


def plays(method, expression):
    found = "a GPU" if "WEBGL" in expression else 7
    return {"result": {"result": {"value": found}} if expression else {}}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Short limits, and a proxy that nobody is behind."""
    monkeypatch.setattr(module, "_START_S", 0.4)
    monkeypatch.setattr(module, "_ANSWER_S", 0.4)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)


def measured(port, address, seconds):
    with module._opened(port, address) as tab:
        return module._measured(tab, seconds)


def test_a_page_that_plays_is_measured_without_a_proxy():
    with devtools(plays) as port:
        rate = measured(port, "file:///a.html#bare", 0.1)
    assert rate.drawn_by == "a GPU" and rate.count == rate.frames_per_s == rate.whole_ms == 7


@pytest.mark.parametrize(
    "answer, told",
    [
        (lambda method, text: {"result": THROWN} if text else plays(method, text), "x is null"),
        (lambda *_: {"error": {"message": "not here"}}, "Chromium refuses Page.navigate: not here"),
        (lambda *_: None, "Chromium does not answer"),
        (lambda _, text: {"result": {"result": {} if "host" in text else {"value": 7}}},
         "no value"),
        (lambda method, text: {"result": BARE} if text else plays(method, text), "Invalid header"),
    ],
    ids=["throws", "refuses", "silent", "undefined", "throws text"],
)  # fmt: skip
def test_what_goes_wrong_in_a_browser_is_told(answer, told):
    with devtools(answer) as port, pytest.raises(UserError, match=told) as error:
        measured(port, "file:///a.html#bare", 0.1)
    assert str(error.value).startswith("file:///a.html#bare: ") and "\n" not in str(error.value)


def test_a_browser_without_a_page_or_that_is_gone():
    with devtools(plays, pages=0) as port, pytest.raises(UserError, match="opens no page in 0 s"):
        measured(port, "file:///a.html", 0.1)
    with pytest.raises(UserError, match="Chromium does not answer"):
        measured(port, "file:///a.html", 0.1)


def test_the_missing_extra_is_named(monkeypatch, tmp_path):
    (tmp_path / "a.html").touch()
    monkeypatch.setattr(module, "browser", lambda: "chromium")
    monkeypatch.setitem(sys.modules, "websockets", None)
    with pytest.raises(UserError, match=r"needs websockets: .*persona\[viewer\]"):
        page_rate(tmp_path / "a.html", "8x8", 0.1, True, tmp_path)


def test_a_browser_that_does_not_end_is_killed():
    script = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    module._end(process, 0.1)
    assert process.returncode == -9
    process.stdin.close()
    process.stdout.close()
