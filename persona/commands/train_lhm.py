"""Trains LHM over many people: ``python train.py +exp=lhm_small``."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import lightning as L
import numpy as np
import torch
from hydra.utils import instantiate
from jaxtyping import Float, UInt8
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from numpy import ndarray
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor

from persona.commands.experiment import (
    CHECKPOINT_FILE,
    METRICS_FILE,
    begin_run,
    checkpoint_file,
    load_config,
    loggers,
    quiet_libraries,
)
from persona.data.io import atomic_path, write_json, write_png
from persona.data.people.portraits import PortraitStream
from persona.modules.lhm.models import LhmModel
from persona.runtime.checkpoint import AtomicCheckpointIO
from persona.runtime.progress import LossBar
from persona.systems.lhm_training import LhmTraining

log = logging.getLogger(__name__)
WEIGHTS_FILE, PICTURE_FILE = "lhm_small.safetensors", "people.png"
_TEST_SEED = 10_000
"""People of the test: their own seed, drawn by the same rules."""
_SHOWN = 6
"""People in the picture."""


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
    stream: PortraitStream = instantiate(config.data)
    system: LhmTraining = instantiate(config.system)
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
    stream.aim(system.size, trainer.strategy.root_device, trainer.global_rank)
    loader = torch.utils.data.DataLoader(stream, batch_size=None)
    started = time.perf_counter()
    trainer.fit(system, loader, ckpt_path=checkpoint, weights_only=True)
    seconds = time.perf_counter() - started
    trainer.save_checkpoint(folder / CHECKPOINT_FILE)
    system.to(trainer.strategy.root_device).eval()
    metrics = score(system, stream, config.test_people, folder / PICTURE_FILE)
    metrics["train/seconds"], metrics["train/steps"] = seconds, float(trainer.global_step)
    if rank_zero_only.rank == 0:
        write_weights(system.average.module, folder / WEIGHTS_FILE)
        write_json(folder / METRICS_FILE, metrics, indent=2)
        log.info("lhm_small: %s", metrics)
        print(f"run: {folder}")
    return metrics


def write_weights(net: LhmModel, path: Path) -> None:
    """Writes all parameters in half precision, whole or not at all."""
    state = {k: v.detach().half().contiguous().cpu() for k, v in net.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, str(temporary))


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
