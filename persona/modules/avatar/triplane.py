"""Triplane: features of 3D points from three axis-aligned feature planes."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Triplane(nn.Module):
    """Three planes (xy, xz, yz), bilinear, concatenated; zero at the start.

    Source: Chan et al. 2022 (EG3D), arXiv:2112.07945; concatenated as in PERSONA.
    """

    def __init__(self, *, channels: int = 32, resolution: int = 128, extent_m: float = 2.0) -> None:
        super().__init__()
        self.extent_m = extent_m
        self.planes = nn.Parameter(torch.zeros(3, channels, resolution, resolution))

    @property
    def num_features(self) -> int:
        """Features per point."""
        return 3 * self.planes.shape[1]

    def forward(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n d"]:
        """points: metres, centred; beyond +-extent/2 the border value holds."""
        x, y, z = (points * (2 / self.extent_m)).unbind(-1)
        grid = torch.stack([torch.stack(p, -1) for p in ((x, y), (x, z), (y, z))])
        sampled = F.grid_sample(
            self.planes, grid[:, None], align_corners=False, padding_mode="border"
        )
        return sampled[:, :, 0].permute(2, 0, 1).flatten(1)
