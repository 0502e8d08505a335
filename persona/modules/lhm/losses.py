"""LHM's regularisers: Gaussians as round as possible, and as near to the body as possible."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

MAX_RATIO = 5.0
MAX_DISTANCE_M = 1.8 / 32


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
