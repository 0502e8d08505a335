"""Shared code of trainings that make a network from many people, not an avatar of one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import lightning as L
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from persona.commands.experiment import (
    METRICS_FILE,
    TrainingRun,
    is_first_process,
)
from persona.data.io import atomic_path, write_json
from persona.runtime.checkpoint import CHECKPOINT_FILE

log = logging.getLogger(__name__)


def train_network(
    run: TrainingRun, trainer: L.Trainer, system: L.LightningModule, stream: IterableDataset
) -> None:
    """Trains on the batches of an endless stream, and saves a checkpoint after the last one."""
    loader = DataLoader(stream, batch_size=None)
    trainer.fit(system, loader, ckpt_path=run.checkpoint, weights_only=True)
    trainer.save_checkpoint(run.folder / CHECKPOINT_FILE)


def write_network(
    folder: Path, weights_file: str, net: nn.Module, metrics: Mapping[str, float]
) -> None:
    """Writes what a training has made, in the first process alone.

    Args:
        folder: Folder of the run.
        weights_file: Name of the weights' file in it.
        net: Whose weights.
        metrics: Metrics of the test.
    """
    if is_first_process():
        write_weights(net, folder / weights_file)
        write_json(folder / METRICS_FILE, dict(metrics), indent=2)
        log.info("%s: %s", weights_file, metrics)
        print(f"run: {folder}")


def write_weights(net: nn.Module, path: Path) -> None:
    """Writes all parameters in half precision, whole or not at all."""
    state = {k: v.detach().half().contiguous().cpu() for k, v in net.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, str(temporary))
