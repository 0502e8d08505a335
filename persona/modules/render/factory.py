"""Choosing a Gaussian rasteriser."""

from importlib import import_module

import torch

from persona.errors import UserError
from persona.modules.render.gaussian import GaussianRenderer

_BACKENDS = {
    "cpu": ("cpu", "CpuRenderer"),
    "cuda": ("cuda_backend", "CudaRenderer"),
    "gsplat": ("gsplat_backend", "GsplatRenderer"),
}
"""Module and class; imported when asked for, since each takes about a second and one is used."""


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
    if name not in _BACKENDS:
        raise UserError(f"renderer '{name}' is unknown: choose auto, {', '.join(_BACKENDS)}")
    module, made = _BACKENDS[name]
    return getattr(import_module(f"persona.modules.render.{module}"), made)()
