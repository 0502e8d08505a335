"""Losses of the perception network, as a dictionary of weighted terms."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.perception.network import NUM_PARTS, Percepts
from persona.types import TensorTuple

_SMALL = {
    2: 1.5, 3: 1.5, 4: 2, 5: 3, 6: 2, 7: 2, 8: 1.5, 10: 2, 11: 2, 13: 2, 14: 3, 15: 2, 16: 2,
    17: 1.5, 19: 2, 20: 2, 21: 2,
}  # fmt: skip
"""Weights of skin, hair and shoes (indices of the palette); cloth and background count 1."""


@dataclass(frozen=True)
class Truth(TensorTuple):
    """Targets of the network."""

    alpha: Float[Tensor, "b 1 h w"]
    parts: Int[Tensor, "b h w"]
    surface: Float[Tensor, "b 3 h w"]
    normal: Float[Tensor, "b 3 h w"]
    depth: Float[Tensor, "b 1 h w"]
    joints: Float[Tensor, "b 22 3"]
    """x and y as shares of the crop's width and height, metres behind the pelvis."""


def perception_losses(
    pred: Percepts, truth: Truth, joints: float = 1.0
) -> dict[str, Float[Tensor, ""]]:
    """Weighted terms; their sum is the loss.

    Args:
        pred: Prediction of the network.
        truth: Truth of the same crops.
        joints: Weight of the joints' terms beside the maps'.
    """
    weight = pred.parts.new_ones(NUM_PARTS)
    for index, value in _SMALL.items():
        weight[index] = value
    inside = (truth.parts > 0)[:, None].float()
    count = inside.sum().clamp(min=1)
    surface = F.smooth_l1_loss(pred.surface, truth.surface, reduction="none", beta=0.02)
    # Most of a crop is background: the person alone counts in full.
    parts = F.cross_entropy(pred.parts, truth.parts, weight=weight, reduction="none")
    unit = F.normalize(pred.normal, dim=1)
    place = (pred.joints[..., :2] - truth.joints[..., :2]).abs().sum(-1)
    # Joints outside the crop can only be guessed, so they get a small weight.
    shown = ((truth.joints[..., :2] - 0.5).abs() < 0.5).all(-1)
    return {
        "alpha": 2 * F.binary_cross_entropy_with_logits(pred.alpha, truth.alpha)
        + F.l1_loss(pred.alpha.sigmoid(), truth.alpha),
        "parts": 2 * (parts * inside[:, 0]).sum() / count + parts.mean(),
        "surface": 6 * (surface * inside).sum() / count,
        "normal": ((1 - (unit * truth.normal).sum(1, keepdim=True)) * inside).sum() / count,
        "depth": 4 * ((pred.depth - truth.depth).abs() * inside).sum() / count,
        "joints": joints * 10 * (place.clamp(max=0.3) * torch.where(shown, 1.0, 0.1)).mean(),
        "joint_depth": joints
        * laplace(pred.joints[..., 2] - truth.joints[..., 2], pred.joints[..., 3]),
    }


def laplace(error: Float[Tensor, "*b"], log_scale: Float[Tensor, "*b"]) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of errors under Laplace distributions of these scales.

    Shifted so that an error of zero at the least scale, 5 mm, costs nothing.
    """
    least = math.log(0.005)
    log_scale = log_scale.clamp(min=least, max=0.5)
    return (error.abs() * torch.exp(-log_scale) + log_scale - least).mean()
