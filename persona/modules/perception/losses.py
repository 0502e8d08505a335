"""Losses of the perception network, as a dictionary of weighted terms."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.body.rotation import matrix_from_sixd
from persona.modules.perception.network import NUM_PARTS, Percepts
from persona.types import TensorTuple

_SMALL = {3: 2.0, 4: 3.0, 5: 4.0, 13: 3.0, 14: 4.0, 2: 2.0, 8: 2.0, 17: 2.0}
"""Weights of small classes: hair, feet, hands, face, shoes (indices of the palette)."""


@dataclass(frozen=True)
class Truth(TensorTuple):
    """What the network should give."""

    alpha: Float[Tensor, "b 1 h w"]
    parts: Int[Tensor, "b h w"]
    surface: Float[Tensor, "b 3 h w"]
    normal: Float[Tensor, "b 3 h w"]
    depth: Float[Tensor, "b 1 h w"]
    rotations: Float[Tensor, "b 22 3 3"]
    betas: Float[Tensor, "b 12"]


def perception_losses(pred: Percepts, truth: Truth) -> dict[str, Float[Tensor, ""]]:
    """Weighted terms; their sum is the loss."""
    weight = pred.parts.new_ones(NUM_PARTS)
    for index, value in _SMALL.items():
        weight[index] = value
    inside = (truth.parts > 0)[:, None].float()
    count = inside.sum().clamp(min=1)
    surface = F.smooth_l1_loss(pred.surface, truth.surface, reduction="none", beta=0.02)
    unit = F.normalize(pred.normal, dim=1)
    turns = matrix_from_sixd(pred.rotations)
    root = (turns[:, 0] - truth.rotations[:, 0]).abs().mean()
    return {
        "alpha": 2 * F.binary_cross_entropy_with_logits(pred.alpha, truth.alpha)
        + F.l1_loss(pred.alpha.sigmoid(), truth.alpha),
        "parts": F.cross_entropy(pred.parts, truth.parts, weight=weight),
        "surface": 10 * (surface * inside).sum() / count,
        "normal": 0.5 * ((1 - (unit * truth.normal).sum(1, keepdim=True)) * inside).sum() / count,
        "depth": ((pred.depth - truth.depth).abs() * inside).sum() / count,
        "pose": (turns[:, 1:] - truth.rotations[:, 1:]).abs().mean() + root,
        "betas": 0.02 * F.l1_loss(pred.betas, truth.betas),
    }
