"""LHM's regularisers: Gaussians as round as possible, and as near to the body as possible."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

MAX_RATIO = 5.0
MAX_DISTANCE_M = 1.8 / 32
ROUND_WEIGHTS: Mapping[str, float] = {
    "head": 1.0, "lower_body": 100.0, "upper_body": 1000.0, "hands": 10000.0,
}  # fmt: skip
NEAR_WEIGHTS: Mapping[str, float] = {
    "head": 1.0, "lower_body": 1.0, "upper_body": 100.0, "hands": 1000.0,
}  # fmt: skip
"""Weight of each group of points."""

Groups = Mapping[str, Int[Tensor, "_"]]
"""Rows of the points of each group."""


def stretch(scales: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n"]:
    """As spherical as possible: by how much longest over shortest axis exceeds a ratio.

    Source: LHM, arXiv:2503.10625, Eq. 9.
    """
    ratio = scales.amax(-1) / (scales.amin(-1) + 1e-6)
    return ratio.clamp(min=MAX_RATIO) - MAX_RATIO


def distance(offset: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n"]:
    """As close as possible: metres by which an offset exceeds what clothes need.

    Source: LHM, arXiv:2503.10625, Eq. 10.
    """
    # The norm of a zero vector has no gradient.
    length = offset.square().sum(-1).clamp(min=1e-12).sqrt()
    return length.clamp(min=MAX_DISTANCE_M) - MAX_DISTANCE_M


def grouped(
    values: Float[Tensor, "b n"], groups: Groups, weights: Mapping[str, float]
) -> Float[Tensor, ""]:
    """Sum over the groups of the group's weight times its mean."""
    return torch.stack([weights[name] * values[:, groups[name]].mean() for name in weights]).sum()
