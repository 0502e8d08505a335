"""One vertical for several photographs of a person who keeps a stance.

How far a body leans towards the camera hardly shows in that photograph, but from the side it does.
What carries it over is the ground: whoever walks round a person, or has the person turn, holds the
camera much the same, so that the vertical lies in the same direction in all photographs. In the
body's own frame it then is the same as well, since the stance is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_WEIGHT = 10.0
"""Of squared angles: one of four photographs that leans by 3 degrees costs as much as keypoints
that are off by 0.26 % of the crop's side."""
_SOFT = 0.15
"""Angle (radians) beyond which a photograph's vertical hardly counts: its camera was held askew.
"""
_LEVEL = 1.0
"""Weight of the squared tilt of the cameras: they seldom look up or down by more than 10 degrees.
"""


class SharedVertical(nn.Module):
    """How far bodies lean apart, given the best direction of the vertical in all cameras."""

    def __init__(self) -> None:
        super().__init__()
        self.tilt = nn.Parameter(torch.zeros(2))
        """Sideways and forward parts of the direction that is up, as shares of its upward part."""

    def forward(self, roots: Sequence[Float[Tensor, "3 3"]]) -> Float[Tensor, ""]:
        """Energy of the body's rotations in the cameras of the photographs."""
        side, ahead = self.tilt
        up = F.normalize(torch.stack((side, -torch.ones_like(side), ahead)), dim=-1)
        in_body = torch.stack([root.T @ up for root in roots])
        middle = F.normalize(in_body.mean(0), dim=-1)
        apart = (in_body - middle).square().sum(-1)
        return _WEIGHT * (apart / (1 + apart / _SOFT**2)).sum() + _LEVEL * self.tilt.square().sum()
