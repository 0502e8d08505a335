"""Which places around a head each edit has something at, as the outlines of its pictures say."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

BATCHES, BATCH, UNSURE = 97, 512, 0.1
"""Batches that are drawn once and used in turn, places in each, and how far what is asked for stays
from certain: sigmoids that still move."""
FEW = 5
"""Fewer places that the same edits have may be there by chance: they weigh less together."""


class Outlines(nn.Module):
    """Canonical places, and which edits have something there. Has no state of its own.

    Args:
        points: In the networks' unit.
        there: By edit and place.
    """

    points: Float[Tensor, "n 3"]
    there: Bool[Tensor, "k n"]
    batches: Int[Tensor, "b m"]

    def __init__(self, points: Float[Tensor, "n 3"], there: Bool[Tensor, "k n"]) -> None:
        super().__init__()
        # Drawn once: a training that is gone on with sees the same.
        generator = torch.Generator().manual_seed(0)
        batches = torch.randint(len(points), (BATCHES, BATCH), generator=generator)
        telling, often = told_apart(there)
        if len(telling):
            # Few places tell edits apart: half of those that are looked at.
            half = BATCHES * BATCH // 2
            chosen = torch.multinomial(often, half, replacement=True, generator=generator)
            batches[:, ::2] = telling[chosen].reshape(BATCHES, -1)
        for name, value in (("points", points), ("there", there), ("batches", batches)):
            self.register_buffer(name, value, persistent=False)

    def batch(
        self, step: Int[Tensor, ""], edit: Int[Tensor, ""]
    ) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m"]]:
        """Places to look at in a step, and 1 where an edit has something; the host need not wait.

        Args:
            step: Of the training.
            edit: Number.
        """
        rows = self.batches.index_select(0, (step % len(self.batches)).view(1))[0]
        there = self.there.index_select(0, edit.view(1))[0]
        return self.points[rows], there[rows].float()


def told_apart(there: Bool[Tensor, "k n"]) -> tuple[Int[Tensor, "m"], Float[Tensor, "m"]]:
    """Places that some edits have and others lack, and how often to look at each.

    Those that the same edits have are looked at as often together as any others are: a dozen of
    them make the tip of a mohawk, and hundreds the brim of a hat.

    Args:
        there: Which edits have which places.
    """
    telling = (there.any(0) & ~there.all(0)).nonzero()[:, 0]
    _, kind, counts = there[:, telling].unique(dim=1, return_inverse=True, return_counts=True)
    return telling, 1 / counts.clamp(min=FEW)[kind].float()


def opacity_distance(logits: Float[Tensor, "m"], there: Float[Tensor, "m"]) -> Float[Tensor, ""]:
    """Cross entropy of opacities and what is there, both kinds alike.

    Args:
        logits: Of opacities.
        there: 1 or 0.
    """
    wanted = there * (1 - UNSURE) + UNSURE / 2
    value = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    share = there.mean().clamp(0.05, 0.95)
    return (value * torch.where(there > 0, 0.5 / share, 0.5 / (1 - share))).mean()
