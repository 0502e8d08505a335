"""Trains the perception network: ``python train.py +exp=perception``."""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from persona.commands.experiment import TrainingRun
from persona.commands.train_network import train_network, write_network
from persona.data.people.stream import PeopleStream
from persona.systems.perception import PerceptionSystem, score

WEIGHTS_FILE = "perception.safetensors"
_TEST_SEED = 10_000
"""Seed of the people of the test, who are drawn by the same rules."""


def train(config: DictConfig, folder: Path) -> dict[str, float]:
    """Trains, tests on people of another seed (unless ``test_batches`` is 0), writes the weights.

    ``config.resume`` continues a run. Returns the test's metrics, as in metrics.json.
    """
    run = TrainingRun.begin(config, folder)
    stream: PeopleStream = instantiate(run.config.data)
    system: PerceptionSystem = instantiate(run.config.system)
    trainer = run.trainer()
    stream.device = trainer.strategy.root_device
    train_network(run, trainer, system, stream)
    net = system.average.module.to(trainer.strategy.root_device).eval()
    stream.seed = _TEST_SEED
    batches = run.config.test_batches
    metrics = score(net, stream, batches) if batches else {}
    write_network(run.folder, WEIGHTS_FILE, net, metrics)
    return metrics
