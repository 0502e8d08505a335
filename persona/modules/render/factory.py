"""Choosing a Gaussian rasteriser."""

import torch

from persona.errors import UserError
from persona.modules.render.gaussian import GaussianRenderer


def make_renderer(name: str = "auto") -> GaussianRenderer:
    """Builds a renderer by name.

    Args:
        name: "cpu", "cuda", "gsplat", or "auto" (cuda where there is CUDA, else cpu).

    Raises:
        UserError: Unknown name, or cuda or gsplat without a CUDA device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name in ("cuda", "gsplat") and not torch.cuda.is_available():
        raise UserError(f"renderer '{name}' needs a CUDA device: choose renderer cpu")
    # Imported here: each backend takes about a second to import, and only one is used.
    if name == "cpu":
        from persona.modules.render.cpu import CpuRenderer

        return CpuRenderer()
    if name == "cuda":
        from persona.modules.render.cuda_backend import CudaRenderer

        return CudaRenderer()
    if name == "gsplat":
        from persona.modules.render.gsplat_backend import GsplatRenderer

        return GsplatRenderer()
    raise UserError(f"renderer '{name}' is unknown: choose auto, cpu, cuda or gsplat")
