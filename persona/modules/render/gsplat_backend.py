"""The CUDA rasteriser with gsplat's projection (Ye et al. 2024) in place of ours."""

from __future__ import annotations

import torch

from persona.errors import UserError
from persona.modules.constants import on_device
from persona.modules.render.cuda_backend import CudaRenderer
from persona.modules.render.project_triton import Splats
from persona.types import Camera, Gaussians


class GsplatRenderer(CudaRenderer):
    """Renders in float32 on CUDA; serves as an independent check of our projection.

    Raises:
        UserError: gsplat's extension does not load.
    """

    name = "gsplat"

    def _project(self, gaussians: Gaussians, camera: Camera) -> Splats:
        gsplat = _load_gsplat()
        g = gaussians
        means, quats, scales, opacities = (
            t.float() for t in (g.means, g.quaternions, g.scales, g.opacities)
        )
        view = camera.cam_from_world.detach().to(means)[None]
        focal, center = (t.detach().to(means) for t in (camera.focal_px, camera.center_px))
        intrinsics = torch.cat([focal.diag(), center[:, None]], 1)
        intrinsics = torch.cat([intrinsics, on_device((0.0, 0.0, 1.0), means.device)[None]])
        radii, means2d, depths, conics, factors = gsplat.fully_fused_projection(
            means, None, quats, scales, view, intrinsics[None], camera.width, camera.height,
            eps2d=self.eps2d, near_plane=self.near_m, far_plane=self.far_m,
            calc_compensations=True, opacities=opacities,
        )  # fmt: skip
        return Splats(means2d[0], conics[0], (opacities * factors)[0], radii[0], depths[0])


def _load_gsplat():
    """Imports gsplat, which compiles its CUDA extension on first use."""
    import gsplat  # Imported only here: the import is slow and may compile the extension.
    from gsplat.cuda._backend import _C

    if _C is None:
        raise UserError(
            "gsplat found no CUDA toolkit to compile its kernels with: install nvcc and set "
            "CUDA_HOME, or choose renderer cuda"
        )
    return gsplat
