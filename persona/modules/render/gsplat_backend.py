"""Gaussian rasteriser for CUDA, on the kernels of gsplat (Ye et al. 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from persona.errors import UserError
from persona.modules.render.gaussian import GaussianRenderer
from persona.types import Camera, Gaussians

TILE = 16
CHUNK = 32
"""Channels of one rasterisation: beyond this gsplat's kernels run out of registers."""


@dataclass(frozen=True)
class _Splats:
    """Projected Gaussians and their sorted tiles, which every rasterisation shares."""

    means: Tensor
    conics: Tensor
    opacities: Tensor
    starts: Tensor
    members: Tensor
    height: int
    width: int

    def rasterize(self, values: Tensor, moves: bool) -> tuple[Tensor, Tensor]:
        """Alpha (1, h, w) and image (c, h, w) of (n, c) values; c is at least 1."""
        import gsplat

        splats = (self.means, self.conics, self.opacities)
        means, conics, opacities = splats if moves else (s.detach() for s in splats)
        parts = [
            gsplat.rasterize_to_pixels(
                means, conics, part[None], opacities, self.width, self.height, TILE, self.starts,
                self.members,
            )
            for part in values.split(CHUNK, 1)
        ]  # fmt: skip
        image = torch.cat([colours[0] for colours, _ in parts], -1)
        return parts[0][1][0].permute(2, 0, 1), image.permute(2, 0, 1)


class GsplatRenderer(GaussianRenderer):
    """Float32 on CUDA.

    Raises:
        UserError: There is no CUDA device, or gsplat's extension does not load.
    """

    name, device_type = "gsplat", "cuda"

    def __init__(self, near_m: float = 0.01, far_m: float = 100.0, eps2d: float = 0.1):
        super().__init__(near_m, far_m, eps2d)
        if not torch.cuda.is_available():
            raise UserError("renderer 'gsplat' needs a CUDA device: choose renderer cpu")

    def _rasterize(
        self, gaussians: Gaussians, camera: Camera, moving: list[Tensor], still: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        height, width, count = camera.height, camera.width, len(gaussians.means)
        sizes = [v.shape[1] for v in (*moving, *still)]
        like = gaussians.means.float()
        if count == 0:
            image = like.new_zeros(sum(sizes), height, width)
            return like.new_zeros(1, height, width), list(image.split(sizes))
        splats = self._project(gaussians, camera)
        if not splats.opacities.requires_grad and not splats.means.requires_grad:
            # Nothing could receive the gradient that tells the two groups apart.
            moving, still = [*moving, *still], []
        # The alpha needs a rasterisation of its own even where no channel moves the geometry.
        values = torch.cat([v.float() for v in moving], 1) if moving else like.new_zeros(count, 1)
        alpha, image = splats.rasterize(values, moves=True)
        images = image.split([v.shape[1] for v in moving]) if moving else ()
        if still:
            _, image = splats.rasterize(torch.cat([v.float() for v in still], 1), moves=False)
            images = (*images, *image.split([v.shape[1] for v in still]))
        return alpha, list(images)

    def _project(self, gaussians: Gaussians, camera: Camera) -> _Splats:
        """One projection and one sort."""
        gsplat = _load_gsplat()
        g = gaussians
        means, quats, scales, opacities = (
            t.float() for t in (g.means, g.quaternions, g.scales, g.opacities)
        )
        view = camera.cam_from_world.detach().to(means)[None]
        intrinsics = torch.eye(3, device=means.device)
        intrinsics[:2, :2] = camera.focal_px.detach().to(means).diag()
        intrinsics[:2, 2] = camera.center_px.detach().to(means)
        height, width = camera.height, camera.width
        radii, means2d, depths, conics, factors = gsplat.fully_fused_projection(
            means, None, quats, scales, view, intrinsics[None], width, height,
            eps2d=self.eps2d, near_plane=self.near_m, far_plane=self.far_m,
            calc_compensations=True, opacities=opacities,
        )  # fmt: skip
        columns, rows = math.ceil(width / TILE), math.ceil(height / TILE)
        _, keys, members = gsplat.isect_tiles(means2d, radii, depths, TILE, columns, rows)
        starts = gsplat.isect_offset_encode(keys, 1, columns, rows)
        return _Splats(means2d, conics, opacities * factors, starts, members, height, width)


def _load_gsplat():
    """Imports gsplat, which compiles its CUDA extension on first use."""
    import gsplat
    from gsplat.cuda._backend import _C

    if _C is None:
        raise UserError(
            "gsplat found no CUDA toolkit to compile its kernels with: install nvcc and set "
            "CUDA_HOME, or choose renderer cpu"
        )
    return gsplat
