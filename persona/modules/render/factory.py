"""Choosing a Gaussian rasteriser."""

import torch

from persona.errors import UserError
from persona.modules.render.gaussian import GaussianRenderer


def make_renderer(name: str = "auto") -> GaussianRenderer:
    """Builds a renderer by name.

    Args:
        name: "cpu", "gsplat", or "auto" (gsplat where CUDA is available, else cpu).

    Raises:
        UserError: Unknown name, or gsplat without CUDA.
    """
    if name == "auto":
        name = "gsplat" if torch.cuda.is_available() else "cpu"
    # Each import costs about a second and the other backend is never needed.
    if name == "cpu":
        from persona.modules.render.cpu import CpuRenderer

        return CpuRenderer()
    if name == "gsplat":
        from persona.modules.render.gsplat_backend import GsplatRenderer

        return GsplatRenderer()
    raise UserError(f"renderer '{name}' is unknown: choose auto, cpu or gsplat")
