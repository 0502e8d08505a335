"""Features of places and times on six planes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

PLANES = ((0, 1), (0, 2), (1, 2))
"""Axes of the planes of space; each axis also has one with time."""
SPACE_START = (0.5, 1.5)
"""Range of the first values on the planes of space. Those with time are 1: nothing changes."""


class HexPlane(nn.Module):
    """The product of bilinear look-ups in xy, xz, yz and in xt, yt, zt.

    Source: Cao and Johnson 2023, arXiv:2301.09632; the product of all six is K-Planes',
    arXiv:2301.10241.

    Args:
        channels: Features.
        resolution: Nodes along each axis of space.
        times: Nodes along time; one for each view of a ring.
        extent_m: Side of the cube around the origin that the planes span, metres.
    """

    def __init__(self, *, channels: int, resolution: int, times: int, extent_m: float) -> None:
        super().__init__()
        self.half_m = extent_m / 2
        space = torch.empty(3, channels, resolution, resolution).uniform_(*SPACE_START)
        self.space = nn.Parameter(space)
        # Rows are times, so that an optimiser can leave those alone that a step does not see.
        self.time = nn.Parameter(torch.ones(times, 3, channels, resolution))

    def forward(
        self, points: Float[Tensor, "n 3"], time: Int[Tensor, ""]
    ) -> Float[Tensor, "2 n c"]:
        """Features of points at one time, and at the mean of all times.

        Args:
            points: Metres, centred; those outside the cube take its border's.
            time: Number of the node.
        """
        places = points / self.half_m
        pairs = torch.stack([places[:, axes] for axes in PLANES])
        space = F.grid_sample(self.space, pairs[:, None], padding_mode="border", align_corners=True)
        lines = torch.stack([self.time.index_select(0, time.view(1))[0], self.time.mean(0)], 1)
        along = torch.stack([places.T, torch.zeros_like(places.T)], -1)
        moving = F.grid_sample(
            lines.flatten(1, 2)[:, :, None], along[:, None], padding_mode="border",
            align_corners=True,
        )  # fmt: skip
        moving = moving[:, :, 0].unflatten(1, (2, -1))
        return (space[:, None, :, 0].prod(0) * moving.prod(0)).transpose(1, 2)
