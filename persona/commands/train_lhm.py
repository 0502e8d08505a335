"""Trains LHM over many people: ``python train.py +exp=lhm_small``."""

from __future__ import annotations

import itertools
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
from persona.data.people.portrait_stream import PortraitStream
from persona.modules.lhm.models import LhmModel
from persona.runtime.checkpoint import AtomicCheckpointIO
from persona.runtime.progress import LossBar
from persona.systems.lhm_check import TEST_SEED, PeopleCheck, score
from persona.systems.lhm_training import LhmTraining

log = logging.getLogger(__name__)
WEIGHTS_FILE, PICTURE_FILE = "lhm_small.safetensors", "people.png"


def train(config: DictConfig, folder: Path) -> dict[str, float]:
    """Trains, writes the averaged weights, and tests them on people of another seed.

    ``config.resume`` goes on with a run, from its last checkpoint. A call that the clock ends
    before the training is over writes weights too. Returns the test's metrics, as in metrics.json.
    """
    checkpoint = None
    if config.resume is not None:
        folder = Path(config.resume)
        config, checkpoint = load_config(folder), str(checkpoint_file(folder))
    else:
        config = begin_run(config, folder)
    L.seed_everything(config.seed, workers=True, verbose=False)
    quiet_libraries()
    stream: PortraitStream = instantiate(config.data)
    system: LhmTraining = instantiate(config.system)
    saver = ModelCheckpoint(
        dirpath=folder, filename=Path(CHECKPOINT_FILE).stem,
        every_n_train_steps=config.checkpoint_every, enable_version_counter=False,
    )  # fmt: skip
    check = PeopleCheck(stream, config.check_people, config.check_every, folder / PICTURE_FILE)
    bars = [LossBar()] if config.trainer.enable_progress_bar else []
    trainer: L.Trainer = instantiate(
        config.trainer,
        callbacks=[check, saver, *bars],
        logger=loggers(config, folder),
        plugins=[AtomicCheckpointIO()],
        default_root_dir=str(folder),
    )
    step = 0 if checkpoint is None else _step_of(checkpoint)
    stream.aim(system.size, trainer.strategy.root_device, trainer.global_rank, step)
    loader = torch.utils.data.DataLoader(stream, batch_size=None)
    trainer.fit(system, loader, ckpt_path=checkpoint, weights_only=True)
    trainer.save_checkpoint(folder / CHECKPOINT_FILE)
    metrics: dict[str, float] = {}
    if rank_zero_only.rank == 0:
        write_weights(system.average, folder / WEIGHTS_FILE)
        metrics = _tested(system.to(stream.device), stream, config.test_people, folder)
        print(f"run: {folder}")
    return metrics


def _step_of(checkpoint: str) -> int:
    return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"]


def _tested(
    system: LhmTraining, stream: PortraitStream, people: int, folder: Path
) -> dict[str, float]:
    """Metrics of people of the test's own seed, in the folder too."""
    unseen = itertools.islice(stream.people(TEST_SEED), people)
    metrics = score(system, stream.device, unseen, folder / PICTURE_FILE, "test")
    metrics["train/seconds"] = system.trained_s
    metrics["train/steps"] = float(system.trainer.global_step)
    write_json(folder / METRICS_FILE, metrics, indent=2)
    log.info("lhm_small: %s", metrics)
    return metrics


def write_weights(net: LhmModel, path: Path) -> None:
    """Writes all parameters in half precision, whole or not at all."""
    state = {k: v.detach().half().contiguous().cpu() for k, v in net.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, str(temporary))
