"""The logger of a run: online where possible, and otherwise offline with a warning."""

from __future__ import annotations

import logging
import os
import urllib.error
import urllib.request
from pathlib import Path

from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig

log = logging.getLogger(__name__)

INIT_TIMEOUT_S = 60
"""Longest wait for W&B to begin a run."""
_OFFLINE = ("offline", "dryrun")
"""Modes of W&B without a network; Lightning calls it ``dryrun``."""
_REACH_TIMEOUT_S = 10
"""Longest wait for its server's first answer: W&B itself tries for minutes."""


def start_logger(settings: DictConfig, folder: Path) -> Logger:
    """Starts the configured logger in a run's folder.

    W&B without a network or a login logs offline instead; ``wandb sync`` uploads it later.
    """
    logger = _logger(settings, folder)
    mode = os.environ.get("WANDB_MODE", "online")
    if not isinstance(logger, WandbLogger) or mode not in ("online", *_OFFLINE):
        return logger
    import wandb  # Lazy: takes a second, and `logger=none` works without W&B.

    if not settings.get("offline") and mode == "online":
        reason = _unreachable()
        if not reason:
            limits = wandb.Settings(init_timeout=INIT_TIMEOUT_S)
            online = _logger(settings, folder, settings=limits)
            try:
                online.experiment  # type: ignore[attr-defined]  # noqa: B018 (begins the run)
                return online
            except wandb.errors.Error as error:
                reason = " ".join(str(error).split())
        log.warning(
            "W&B cannot be logged to online (%s): it logs offline; upload by wandb sync %s",
            *(reason, folder / "wandb/offline-run-*"),
        )
    # Lightning's ``offline`` sets an environment variable, which W&B reads only once a process.
    said = wandb.Settings(mode="offline")
    return _logger(settings, folder, offline=True, settings=said)


def _logger(config: DictConfig, folder: Path, **more: object) -> Logger:
    made: Logger = instantiate(config, save_dir=str(folder), **more)
    # Lightning hands on a setting that W&B has given up, and W&B warns of it in every run.
    getattr(made, "_wandb_init", {}).pop("anonymous", None)
    return made


def _unreachable() -> str:
    """Why W&B's server cannot be reached; empty if it answers at all."""
    import wandb  # As above.

    address = wandb.setup().settings.base_url
    try:
        urllib.request.urlopen(address, timeout=_REACH_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        return f"{address}: {getattr(error, 'reason', error)}"
    return ""
