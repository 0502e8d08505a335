"""W&B's logger without a network, without a login, and offline."""

import http.server
import threading
import time

import pytest
import wandb
from omegaconf import OmegaConf

from persona.runtime.tracking import start_logger

SETTINGS = {
    "_target_": "lightning.pytorch.loggers.WandbLogger", "project": "persona", "offline": False,
}  # fmt: skip


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts the logger with a server's address and without a login."""
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)

    def run(address, **settings):
        monkeypatch.setenv("WANDB_BASE_URL", address)
        wandb.teardown()
        return start_logger(OmegaConf.create(SETTINGS | settings), tmp_path)

    yield run
    if wandb.run is not None:
        wandb.run.finish(quiet=True)
    wandb.teardown()


@pytest.fixture
def server():
    """A server that answers every request with 404 and counts them."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", asked
    running.shutdown()
    running.server_close()


def test_without_a_network_it_logs_offline(start, tmp_path, caplog):
    started = time.monotonic()
    logger = start("http://127.0.0.1:9")
    logger.log_metrics({"loss": 1.0})
    assert time.monotonic() - started < 60, "W&B's own time-out of minutes was waited for"
    assert logger.experiment.settings._offline
    assert list(tmp_path.glob("wandb/offline-run-*"))
    (line,) = [r.getMessage() for r in caplog.records if "W&B" in r.getMessage()]
    assert "127.0.0.1:9" in line and "wandb sync" in line and "\n" not in line
    assert "anonymous" not in logger._wandb_init, "W&B warns of this option"


def test_without_a_login_it_logs_offline(start, server, caplog):
    address, asked = server
    logger = start(address)
    assert asked, "the server got no request"
    assert logger.experiment.settings._offline
    (line,) = [r.getMessage() for r in caplog.records if "W&B" in r.getMessage()]
    assert "API key" in line and "\n" not in line


def test_offline_asks_nobody(start, server, caplog):
    address, asked = server
    assert start(address, offline=True).experiment.settings._offline
    assert not asked and "W&B" not in caplog.text
