"""Trains the perception network: ``python train.py +exp=perception``."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig
from safetensors.torch import save_file

from persona.commands.experiment import (
    CHECKPOINT_FILE,
    METRICS_FILE,
    begin_run,
    checkpoint_file,
    load_config,
    loggers,
    quiet_libraries,
)
from persona.data.io import atomic_path, write_json
from persona.data.people.stream import PeopleStream
from persona.modules.perception.network import PerceptionNet
from persona.runtime.checkpoint import AtomicCheckpointIO
from persona.runtime.progress import LossBar
from persona.systems.perception import PerceptionSystem, score

log = logging.getLogger(__name__)
WEIGHTS_FILE = "perception.safetensors"
_TEST_SEED = 10_000
"""People of the test: their own seed, drawn by the same rules."""


def train(config: DictConfig, folder: Path) -> dict[str, float]:
    """Trains, tests on people of another seed, and writes the weights.

    ``config.resume`` goes on with a run. Returns the test's metrics, as in metrics.json.
    """
    checkpoint = None
    if config.resume is not None:
        folder = Path(config.resume)
        config, checkpoint = load_config(folder), str(checkpoint_file(folder))
    else:
        config = begin_run(config, folder)
    L.seed_everything(config.seed, workers=True, verbose=False)
    quiet_libraries()
    stream: PeopleStream = instantiate(config.data)
    system: PerceptionSystem = instantiate(config.system)
    saver = ModelCheckpoint(
        dirpath=folder, filename=Path(CHECKPOINT_FILE).stem,
        every_n_train_steps=config.checkpoint_every, enable_version_counter=False,
    )  # fmt: skip
    trainer: L.Trainer = instantiate(
        config.trainer,
        callbacks=[saver, LossBar()] if config.trainer.enable_progress_bar else [saver],
        logger=loggers(config, folder),
        plugins=[AtomicCheckpointIO()],
        default_root_dir=str(folder),
    )
    stream.device = trainer.strategy.root_device
    loader = torch.utils.data.DataLoader(stream, batch_size=None)
    trainer.fit(system, loader, ckpt_path=checkpoint, weights_only=True)
    trainer.save_checkpoint(folder / CHECKPOINT_FILE)
    net = system.average.module.to(trainer.strategy.root_device).eval()
    stream.seed = _TEST_SEED
    metrics = score(net, stream, config.test_batches)
    if rank_zero_only.rank == 0:
        write_weights(net, folder / WEIGHTS_FILE)
        write_json(folder / METRICS_FILE, metrics, indent=2)
        log.info("perception: %s", metrics)
        print(f"run: {folder}")
    return metrics


def write_weights(net: PerceptionNet, path: Path) -> None:
    """Writes all parameters in half precision, whole or not at all."""
    state = {k: v.detach().half().contiguous().cpu() for k, v in net.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, str(temporary))
