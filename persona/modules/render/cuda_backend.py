"""Gaussian rasteriser for CUDA, whose kernels compile without a CUDA toolkit."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.render.binning import Bins, bin_splats
from persona.modules.render.composite_cuda import CHANNELS, TILE, composite
from persona.modules.render.gaussian import GaussianRenderer
from persona.modules.render.project_triton import Splats, project
from persona.types import Camera, Gaussians

log = logging.getLogger(__name__)

SLOTS_PER_GAUSSIAN = 4
"""Room, in (Gaussian, tile) pairs per Gaussian, for sizes whose pairs were never counted."""
ROOM = 1.5
"""Room of a pass with fixed slots, as a multiple of the pairs that were counted before."""

SHEET_GAP_PX = 64
"""Rows between two pictures on a sheet."""


@dataclass(frozen=True)
class _Sorted:
    """Projected Gaussians and their sorted tiles, shared by all passes over an image."""

    splats: Splats
    bins: Bins
    size: tuple[int, int]

    def composite(self, values: Tensor, moving: int) -> tuple[Tensor, Tensor]:
        """Alpha (1, h, w) and image (c, h, w) of (n, c) values, c at least 1; see ``composite``."""
        shapes = self.splats.means, self.splats.conics, self.splats.opacities
        parts = [
            composite(*shapes, part, min(max(moving - first, 0), part.shape[1]), self.bins,
                      self.size)
            for first, part in zip(
                range(0, values.shape[1], CHANNELS), values.split(CHANNELS, 1), strict=True
            )
        ]  # fmt: skip
        if len(parts) == 1:
            return parts[0]
        # Use the first pass's alpha, so that only this pass carries its gradient.
        return parts[0][0], torch.cat([image for _, image in parts])


class CudaRenderer(GaussianRenderer):
    """Renders in float32 on CUDA.

    Except inside ``fixed_slots``, a pass waits for the device once, to learn how many
    (Gaussian, tile) pairs there are.
    """

    name = device_type = "cuda"

    _overflows: Int[Tensor, "1"]
    _place: Int[Tensor, "1"]

    def __init__(self, near_m: float = 0.01, far_m: float = 100.0, eps2d: float = 0.1):
        super().__init__(near_m, far_m, eps2d)
        self._fixed = False
        self._slots: dict[tuple[int, ...], int] = {}
        self.register_buffer("_overflows", torch.zeros(1, dtype=torch.int32), persistent=False)
        self.register_buffer("_place", torch.zeros(1, dtype=torch.int64), persistent=False)

    @contextmanager
    def fixed_slots(self) -> Iterator[None]:
        """Reserves room for 1.5 times the (Gaussian, tile) pairs of earlier passes of this size.

        If that is too little, the farthest Gaussians are left out.
        """
        before, self._fixed = self._fixed, True
        try:
            yield
        finally:
            self._fixed = before

    def grow_slots(self) -> bool:
        """Doubles the room if it was too small; waits for the device."""
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
        seen = self._sorted(self._project(gaussians, camera), (height, width))
        if not sizes:
            return seen.composite(like.new_zeros(count, 1), 0)[0], []
        values = torch.cat([v.float() for v in (*moving, *still)], 1)
        alpha, image = seen.composite(values, sum(sizes[: len(moving)]))
        return alpha, list(image.split(sizes))

    def many(
        self, gaussians: Sequence[Gaussians], camera: Camera, values: Sequence[Float[Tensor, "n c"]]
    ) -> tuple[Float[Tensor, "k c h w"], Float[Tensor, "k 1 h w"]]:
        """As in the base class, with one sort and one pass: the pictures form a column on a sheet.

        Rows between two pictures keep Gaussians that reach beyond one picture out of the next.
        """
        count, height = len(gaussians), camera.height
        pitch = -(-(height + SHEET_GAP_PX) // TILE) * TILE
        each = [self._project(scene, camera[index]) for index, scene in enumerate(gaussians)]
        means, conics, opacities, radii, depths = (
            torch.stack(parts) for parts in zip(*each, strict=True)
        )
        down = pitch * torch.arange(count, device=means.device, dtype=means.dtype)
        means = means + torch.stack((torch.zeros_like(down), down), 1)[:, None]
        parts = (t.flatten(0, 1) for t in (means, conics, opacities, radii, depths))
        seen = self._sorted(Splats(*parts), (count * pitch, camera.width))
        alpha, image = seen.composite(torch.cat(list(values)).float(), values[0].shape[1])
        pictures = torch.cat((image, alpha)).unflatten(1, (count, pitch))[:, :, :height]
        return pictures[:-1].transpose(0, 1), pictures[-1:].transpose(0, 1)

    def _project(self, gaussians: Gaussians, camera: Camera) -> Splats:
        """Projects the Gaussians to the image."""
        return project(gaussians, camera, near_m=self.near_m, far_m=self.far_m, eps2d=self.eps2d)

    def _sorted(self, splats: Splats, size: tuple[int, int]) -> _Sorted:
        """Sorts the splats into tiles once, for all passes over an image of this size."""
        count, (rows, columns) = len(splats.means), (math.ceil(side / TILE) for side in size)
        kind = count, *size
        slots = self._slots.get(kind, SLOTS_PER_GAUSSIAN * count) if self._fixed else None
        places = splats.means.detach(), splats.radii, splats.depths.detach()
        bins = bin_splats(*places, (rows, columns), TILE, slots)
        if slots is not None:
            self._slots[kind] = slots
            # An atomic addition, because passes may run in parallel.
            self._overflows.scatter_add_(0, self._place, bins.overflowed.int()[None])
        else:
            needed = int(ROOM * len(bins.members)) + 1
            self._slots[kind] = max(needed, self._slots.get(kind, 0))
        return _Sorted(splats, bins, size)
