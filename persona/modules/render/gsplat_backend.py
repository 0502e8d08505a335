"""Gaussian rasteriser for CUDA: gsplat's projection (Ye et al. 2024), our compositing."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from persona.errors import UserError
from persona.modules.constants import on_device
from persona.modules.render.binning import Bins, bin_splats
from persona.modules.render.composite_cuda import CHANNELS, TILE, composite
from persona.modules.render.gaussian import GaussianRenderer
from persona.types import Camera, Gaussians

log = logging.getLogger(__name__)

SLOTS_PER_GAUSSIAN = 4
"""Pairs of Gaussian and tile to make room for where no pass was counted before."""
ROOM = 1.5
"""Share of the pairs counted before that a pass of fixed size makes room for."""


@dataclass(frozen=True)
class _Splats:
    """Projected Gaussians and their sorted tiles, which every pass shares."""

    means: Tensor
    conics: Tensor
    opacities: Tensor
    bins: Bins
    size: tuple[int, int]

    def composite(self, values: Tensor, moving: int) -> tuple[Tensor, Tensor]:
        """Alpha (1, h, w) and image (c, h, w) of (n, c) values, c at least 1; see ``composite``."""
        shapes = self.means, self.conics, self.opacities
        parts = [
            composite(*shapes, part, min(max(moving - first, 0), part.shape[1]), self.bins,
                      self.size)
            for first, part in zip(
                range(0, values.shape[1], CHANNELS), values.split(CHANNELS, 1), strict=True
            )
        ]  # fmt: skip
        if len(parts) == 1:
            return parts[0]
        # The alpha's gradient flows through the first part: the others have none.
        return parts[0][0], torch.cat([image for _, image in parts])


class GsplatRenderer(GaussianRenderer):
    """Float32 on CUDA.

    A pass waits for the device once, to learn how many (Gaussian, tile) pairs there are, except
    inside ``fixed_slots``.

    Raises:
        UserError: There is no CUDA device, or gsplat's extension does not load.
    """

    name, device_type = "gsplat", "cuda"

    def __init__(self, near_m: float = 0.01, far_m: float = 100.0, eps2d: float = 0.1):
        super().__init__(near_m, far_m, eps2d)
        if not torch.cuda.is_available():
            raise UserError("renderer 'gsplat' needs a CUDA device: choose renderer cpu")
        self._fixed = False
        self._slots: dict[tuple[int, ...], int] = {}
        self.register_buffer("_overflows", torch.zeros(1, dtype=torch.int32), persistent=False)
        self.register_buffer("_place", torch.zeros(1, dtype=torch.int64), persistent=False)

    @contextmanager
    def fixed_slots(self) -> Iterator[None]:
        """Makes room for half as many pairs again as passes of the same size had before.

        Where that is too small the nearest are drawn.
        """
        before, self._fixed = self._fixed, True
        try:
            yield
        finally:
            self._fixed = before

    def grow_slots(self) -> bool:
        """Waits for the device; doubles the room if it was too small."""
        if not bool(self._overflows):
            return False
        log.warning("some recent steps left the farthest Gaussians out; making room for them")
        self._slots = {size: 2 * slots for size, slots in self._slots.items()}
        self._overflows.zero_()
        return True

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
        if not sizes:
            return splats.composite(like.new_zeros(count, 1), 0)[0], []
        values = torch.cat([v.float() for v in (*moving, *still)], 1)
        alpha, image = splats.composite(values, sum(sizes[: len(moving)]))
        return alpha, list(image.split(sizes))

    def _project(self, gaussians: Gaussians, camera: Camera) -> _Splats:
        """One projection and one sort."""
        gsplat = _load_gsplat()
        g = gaussians
        means, quats, scales, opacities = (
            t.float() for t in (g.means, g.quaternions, g.scales, g.opacities)
        )
        view = camera.cam_from_world.detach().to(means)[None]
        focal, center = (t.detach().to(means) for t in (camera.focal_px, camera.center_px))
        intrinsics = torch.cat([focal.diag(), center[:, None]], 1)
        intrinsics = torch.cat([intrinsics, on_device((0.0, 0.0, 1.0), means.device)[None]])
        height, width = camera.height, camera.width
        radii, means2d, depths, conics, factors = gsplat.fully_fused_projection(
            means, None, quats, scales, view, intrinsics[None], width, height,
            eps2d=self.eps2d, near_plane=self.near_m, far_plane=self.far_m,
            calc_compensations=True, opacities=opacities,
        )  # fmt: skip
        grid = math.ceil(height / TILE), math.ceil(width / TILE)
        size = len(means), height, width
        slots = self._slots.get(size, SLOTS_PER_GAUSSIAN * len(means)) if self._fixed else None
        bins = bin_splats(means2d[0].detach(), radii[0], depths[0].detach(), grid, TILE, slots)
        if slots is not None:
            self._slots[size] = slots
            # An atomic addition: passes may run side by side.
            self._overflows.scatter_add_(0, self._place, bins.overflowed.int()[None])
        else:
            needed = int(ROOM * len(bins.members)) + 1
            self._slots[size] = max(needed, self._slots.get(size, 0))
        return _Splats(means2d[0], conics[0], (opacities * factors)[0], bins, (height, width))


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
