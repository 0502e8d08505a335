"""How well a network reconstructs unseen people, in numbers and a picture."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable
from pathlib import Path

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, UInt8
from lightning.pytorch.utilities import rank_zero_only
from numpy import ndarray
from torch import Tensor

from persona.data.io import write_png
from persona.data.people.portrait_stream import PortraitStream
from persona.data.people.portraits import Portraits
from persona.systems.lhm_training import LhmTraining

log = logging.getLogger(__name__)
CHECK_SEED, TEST_SEED = 20_000, 10_000
"""People of the checks and of the test: their own seeds, drawn by the same rules."""
SHOWN = 6
"""People in a picture."""


class PeopleCheck(L.Callback):
    """Scores the averaged weights on the same unseen people every so many steps.

    Args:
        stream: Where people come from.
        people: How many; 0 checks nothing.
        every: Steps.
        picture: Written at each check; see ``score``.
    """

    def __init__(self, stream: PortraitStream, people: int, every: int, picture: Path) -> None:
        self.stream, self.count, self.every, self.picture = stream, people, every, picture
        self.people: list[Portraits] = []

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, system: L.LightningModule) -> None:
        """Makes the people, while workers start to make the training people."""
        self.people = list(itertools.islice(self.stream.people(CHECK_SEED), self.count))

    @rank_zero_only
    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        system: L.LightningModule,
        outputs: object,
        batch: object,
        index: int,
    ) -> None:
        """Runs a check if one is due."""
        if not self.people or trainer.global_step % self.every:
            return
        assert isinstance(system, LhmTraining)  # The callback is only used with this system.
        metrics = score(system, self.stream.device, self.people, self.picture, "check")
        system.log_dict(metrics, rank_zero_only=True)
        values = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        log.info("step %d: %s", trainer.global_step, values)


@torch.no_grad()
def score(
    system: LhmTraining,
    device: torch.device,
    people: Iterable[Portraits],
    picture: Path,
    prefix: str,
) -> dict[str, float]:
    """PSNR inside the mask and mask IoU, of the photograph's view and of all others.

    Args:
        system: With the averaged weights.
        device: Its own.
        people: Others than it was trained on, one by one.
        picture: File for a picture of the first of them: truth above render, the photograph's view
            first.
        prefix: Prefix of the metrics' names.
    """
    values: dict[str, list[float]] = {}
    rows: list[UInt8[ndarray, "h w 3"]] = []
    was_training = system.average.training
    system.average.eval()
    for one in people:
        batch, shown = one.to(device), []
        made = system.run(system.average, batch, None)
        for view, (rgb, alpha) in enumerate(zip(*system.renders(made, batch), strict=True)):
            truth = batch.colour[0, view].float() / 255
            inside, seen = batch.mask[0, view][None] > 127, (rgb + 1 - alpha).clamp(0, 1)
            error = (seen - truth).square()[inside.expand(3, -1, -1)].mean()
            both, either = (inside & (alpha > 0.5)).sum(), (inside | (alpha > 0.5)).sum()
            kind = "photo" if view == 0 else "other"
            values.setdefault(f"{prefix}/fg_psnr_{kind}", []).append(float(-10 * error.log10()))
            values.setdefault(f"{prefix}/mask_iou_{kind}", []).append(float(both / either))
            shown.append(torch.cat((truth, seen), 1))
        if len(rows) < SHOWN:
            rows.append(_picture(shown))
    system.average.train(was_training)
    write_png(picture, np.concatenate(rows))
    return {name: float(np.mean(found)) for name, found in values.items()}


def _picture(views: list[Float[Tensor, "3 h w"]]) -> UInt8[ndarray, "h w2 3"]:
    both = torch.cat(views, 2).permute(1, 2, 0)
    return (both * 255).round().byte().cpu().numpy()
