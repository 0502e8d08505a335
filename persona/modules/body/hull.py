"""Convex hulls by their support functions: how far a cover spans over what it covers."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def circle(count: int) -> Float[Tensor, "d 2"]:
    """Evenly spaced unit vectors in the plane."""
    angle = torch.arange(count) * (2 * torch.pi / count)
    return torch.stack((angle.cos(), angle.sin()), -1)


def sphere(count: int) -> Float[Tensor, "d 3"]:
    """Almost evenly spaced unit vectors (Fibonacci lattice)."""
    index = torch.arange(count) + 0.5
    z, angle = 1 - 2 * index / count, index * (torch.pi * (1 + 5**0.5))
    flat = (1 - z.square()).sqrt()
    return torch.stack((flat * angle.cos(), flat * angle.sin(), z), -1)


def support(points: Float[Tensor, "n c"], directions: Float[Tensor, "d c"]) -> Float[Tensor, "d"]:
    """Largest extent of the points along each direction."""
    return (points @ directions.T).amax(0)


def reach(
    rays: Float[Tensor, "n c"],
    planes: Float[Tensor, "d c"],
    limits: Float[Tensor, "*n d"],
) -> Float[Tensor, "n"]:
    """Distance from the origin along unit rays to the first plane ``x . plane = limit``.

    Infinite where no plane is ahead.
    """
    slope = rays @ planes.T
    return torch.where(slope > 1e-3, limits / slope.clamp(min=1e-3), torch.inf).amin(-1)
