"""Draws every Gaussian as a ball of its mean scale, by the CPU's kernels."""

from dataclasses import replace

from torch import Tensor

from persona.modules.render.cpu import CpuRenderer
from persona.types import Camera, Gaussians


class RoundFootprint(CpuRenderer):
    """What is left of a render without the Gaussians' shapes."""

    name = "round_footprint"

    def _rasterize(
        self, gaussians: Gaussians, camera: Camera, moving: list[Tensor], still: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        scales = gaussians.scales.mean(1, keepdim=True).expand(-1, 3)
        return super()._rasterize(replace(gaussians, scales=scales), camera, moving, still)
