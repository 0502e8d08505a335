"""The avatar as it learns, in the browser: ``train.py viewer=true``."""

from __future__ import annotations

import logging
import time
from types import ModuleType

import lightning as L
import torch
from hydra.utils import get_class
from omegaconf import DictConfig

from persona.commands.puppet import Puppet
from persona.commands.viewer import Viewer, check_port
from persona.data.export.extras import extra
from persona.data.numbers import whole_number
from persona.errors import UserError
from persona.systems.fit import Fit
from persona.systems.method import Method

log = logging.getLogger(__name__)

LEAST_S = 0.5
"""Least seconds between two pictures."""
SHARE = 0.1
"""Share of the training's time that pictures may take."""


def live_view(config: DictConfig) -> list[L.Callback]:
    """The callback that shows the training in the browser; none where ``viewer`` is false.

    Args:
        config: Configuration of train.py as called, so that a resumed run can be watched too.

    Raises:
        UserError: viser is missing, the port is taken, nothing is trained, or an option is bad.
    """
    if not config.get("viewer", False):
        return []
    if not isinstance(config.viewer, bool):
        raise UserError(f"viewer={config.viewer}: takes true or false")
    method: type[Method] = get_class(config.system.method._target_)
    if not method.trained:
        raise UserError("viewer=true: nothing is trained here; look at the run by scripts/view.py")
    whole_number("viewer_port", config.viewer_port, low=1, high=65535)
    viser = extra("viser", "viewer")
    check_port(config.viewer_host, config.viewer_port, "viewer_port")
    return [LiveView(viser, config.viewer_host, config.viewer_port)]


class LiveView(L.Callback):
    """Poses the avatar between steps, as the controls of the page say.

    Nothing is posed while no browser is connected. The results of the training do not change.

    Args:
        viser: The module.
        host: Address to listen at.
        port: Port there.
    """

    def __init__(self, viser: ModuleType, host: str, port: int) -> None:
        self.viser, self.host, self.port = viser, host, port
        self.viewer: Viewer | None = None
        self.next = 0.0
        self.sent = 0
        """Pictures so far."""

    def on_train_start(self, trainer: L.Trainer, system: L.LightningModule) -> None:
        """Opens the page."""
        assert isinstance(system, Fit)
        if not trainer.is_global_zero:
            return
        self.viewer = Viewer(self.viser, Puppet(system), self.host, self.port)
        print(f"viewer: http://{self.host}:{self.port} while it trains", flush=True)

    def on_train_batch_end(self, trainer, system, outputs, batch, batch_idx) -> None:
        """Shows the avatar if a browser is connected and the last picture is old enough."""
        started = time.perf_counter()
        if self.viewer is None or started < self.next or not self.looked_at():
            return
        try:
            self._show(system)
        except Exception as error:  # Other threads move controls meanwhile.
            log.warning("viewer: no picture (%s: %s)", type(error).__name__, error)
        ended = time.perf_counter()
        self.next = ended + max(LEAST_S, (ended - started) * (1 / SHARE - 1))

    def _show(self, system: L.LightningModule) -> None:
        """Poses the avatar for evaluation; every part is in its own mode again afterwards."""
        assert self.viewer is not None
        modes = {part: part.training for part in system.modules()}
        devices = [system.device] if system.device.type == "cuda" else []
        try:
            system.eval()
            with torch.random.fork_rng(devices):
                self.viewer.dirty = True  # At least its parameters have changed.
                self.viewer.step()
        finally:
            for part, training in modes.items():
                part.training = training
        self.sent += 1

    def looked_at(self) -> bool:
        """Whether a browser has the page open."""
        assert self.viewer is not None
        return bool(self.viewer.server.get_clients())

    def on_train_end(self, trainer: L.Trainer, system: L.LightningModule) -> None:
        """Closes the page; scripts/view.py shows finished runs."""
        self._close()

    def on_exception(self, trainer, system, exception) -> None:
        """Closes it where training ends early."""
        self._close()

    def _close(self) -> None:
        if self.viewer is not None:
            self.viewer.server.stop()
            self.viewer = None
