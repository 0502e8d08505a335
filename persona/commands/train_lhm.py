"""Trains LHM over many people: ``python train.py +exp=lhm_small``."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from jaxtyping import Float, UInt8
from numpy import ndarray
from omegaconf import DictConfig
from torch import Tensor

from persona.commands.experiment import TrainingRun
from persona.commands.train_network import train_network, write_network
from persona.data.io import write_png
from persona.data.people.portraits import PortraitStream
from persona.systems.lhm_training import LhmTraining

WEIGHTS_FILE, PICTURE_FILE = "lhm_small.safetensors", "people.png"
_TEST_SEED = 10_000
"""People of the test: their own seed, drawn by the same rules."""
_SHOWN = 6
"""People in the picture."""


def train(config: DictConfig, folder: Path) -> dict[str, float]:
    """Trains, tests on people of another seed, and writes the weights.

    ``config.resume`` goes on with a run. Returns the test's metrics, as in metrics.json.
    """
    run = TrainingRun.begin(config, folder)
    stream: PortraitStream = instantiate(run.config.data)
    system: LhmTraining = instantiate(run.config.system)
    trainer = run.trainer()
    stream.aim(system.size, trainer.strategy.root_device, trainer.global_rank)
    started = time.perf_counter()
    train_network(run, trainer, system, stream)
    seconds = time.perf_counter() - started
    system.to(trainer.strategy.root_device).eval()
    metrics = score(system, stream, run.config.test_people, run.folder / PICTURE_FILE)
    metrics["train/seconds"], metrics["train/steps"] = seconds, float(trainer.global_step)
    write_network(run.folder, WEIGHTS_FILE, system.average.module, metrics)
    return metrics


@torch.no_grad()
def score(
    system: LhmTraining, stream: PortraitStream, people: int, picture: Path
) -> dict[str, float]:
    """PSNR inside the mask and mask IoU, of the photograph's view and of all others.

    Args:
        system: With the averaged weights.
        stream: Of other people.
        people: How many.
        picture: Where to show the first of them: what is seen, truth and render of each view.
    """
    values: dict[str, list[float]] = {}
    rows: list[ndarray] = []
    for _, one in zip(range(people), stream.one_by_one(_TEST_SEED), strict=False):
        batch, shown = one.to(stream.device), []
        made = system.run(system.average.module, batch, None)
        for person, view, rgb, alpha in system.renders(made, batch):
            truth = batch.colour[person, view].float() / 255
            mask = batch.mask[person, view][None].float() / 255
            seen = (rgb + 1 - alpha).clamp(0, 1)
            inside = mask > 0.5
            error = (seen - truth).square()[inside.expand(3, -1, -1)].mean()
            both, either = (inside & (alpha > 0.5)).sum(), (inside | (alpha > 0.5)).sum()
            kind = "photo" if view == 0 else "other"
            values.setdefault(f"test/fg_psnr_{kind}", []).append(float(-10 * error.log10()))
            values.setdefault(f"test/mask_iou_{kind}", []).append(float(both / either))
            shown.append(torch.cat((truth, seen), 1))
        if len(rows) < _SHOWN:
            rows.append(_picture(shown))
    write_png(picture, np.concatenate(rows))
    return {name: float(np.mean(found)) for name, found in values.items()}


def _picture(views: list[Float[Tensor, "3 h w"]]) -> UInt8[ndarray, "h w2 3"]:
    both = torch.cat(views, 2).permute(1, 2, 0)
    return (both * 255).round().byte().cpu().numpy()
