"""Trains LHM over many people: ``python train.py +exp=lhm_small``."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from persona.commands.experiment import TrainingRun
from persona.commands.train_network import train_network, write_network
from persona.data.people.portrait_stream import PortraitStream
from persona.systems.lhm_check import TEST_SEED, PeopleCheck, score
from persona.systems.lhm_training import LhmTraining

WEIGHTS_FILE, PICTURE_FILE = "lhm_small.safetensors", "people.png"


def train(config: DictConfig, folder: Path) -> dict[str, float]:
    """Trains, tests the averaged weights on people of another seed, and writes them.

    ``config.resume`` continues a run from its last checkpoint. Weights are also written when
    the clock ends a call before the training is over. Returns the test's metrics, as in
    metrics.json.
    """
    run = TrainingRun.begin(config, folder)
    stream: PortraitStream = instantiate(run.config.data)
    system: LhmTraining = instantiate(run.config.system)
    picture = run.folder / PICTURE_FILE
    check = PeopleCheck(stream, run.config.check_people, run.config.check_every, picture)
    trainer = run.trainer(check)
    step = 0 if run.checkpoint is None else _step_of(run.checkpoint)
    stream.aim(system.size, trainer.strategy.root_device, trainer.global_rank, step)
    train_network(run, trainer, system, stream)
    metrics: dict[str, float] = {}
    if trainer.is_global_zero:
        unseen = itertools.islice(stream.people(TEST_SEED), run.config.test_people)
        metrics = score(system.to(stream.device), stream.device, unseen, picture, "test")
        metrics["train/seconds"] = system.clock.trained_s
        metrics["train/steps"] = float(trainer.global_step)
    write_network(run.folder, WEIGHTS_FILE, system.average, metrics)
    return metrics


def _step_of(checkpoint: Path) -> int:
    return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"]
