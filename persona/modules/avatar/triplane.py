"""Triplane: features of 3D points from three axis-aligned feature planes."""

from typing import Any

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
        self._reads: tuple[Tensor, Any] | None = None

    @property
    def num_features(self) -> int:
        """Features per point."""
        return 3 * self.planes.shape[1]

    def forward(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n d"]:
        """points: metres, centred; beyond +-extent/2 the border value holds.

        On CUDA they are taken for constants: what they read is prepared in the first call with a
        tensor, and they get no gradient.
        """
        if points.device.type == "cuda" and self.planes.dtype == torch.float32:
            return self._gather(points)
        sampled = F.grid_sample(
            self.planes, self._grid(points)[:, None], align_corners=False, padding_mode="border"
        )
        return sampled[:, :, 0].permute(2, 0, 1).flatten(1)

    def _grid(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "3 n 2"]:
        """Where the points lie on each plane, [-1, 1]."""
        x, y, z = (points * (2 / self.extent_m)).unbind(-1)
        return torch.stack([torch.stack(p, -1) for p in ((x, y), (x, z), (y, z))])

    def _gather(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n d"]:
        from persona.modules.avatar import triplane_triton  # Comes with CUDA builds of torch.

        if self._reads is None or self._reads[0] is not points:
            grid = self._grid(points.detach())
            self._reads = points, triplane_triton.reads(grid, self.planes.shape[-1])
        return triplane_triton.features(self.planes, self._reads[1])
