"""Gaussians, cameras and comparisons for tests of renderers."""

from __future__ import annotations

from dataclasses import fields

import torch

from persona.types import Camera, Channel, Gaussians


def cloud(count=120, seed=0, dtype=torch.float64, opacity=None, depth=2.0) -> Gaussians:
    """Random anisotropic Gaussians in front of an identity camera, some outside the picture."""
    g = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=g, dtype=torch.float64)

    means = torch.randn(count, 3, generator=g, dtype=torch.float64) * torch.tensor([0.5, 0.4, 0.3])
    means[:, 2] += depth
    scales = 0.01 * 12 ** uniform(count, 3)
    quaternions = torch.randn(count, 4, generator=g, dtype=torch.float64)
    opacities = 0.05 + 0.95 * uniform(count) if opacity is None else uniform(count) * 0 + opacity
    return Gaussians(*(t.to(dtype) for t in (means, scales, quaternions, opacities)))


def shell(count=14_000, opacity=1.0) -> Gaussians:
    """An opaque sphere of Gaussians as large as their spacing, like an avatar, in float32."""
    g = torch.Generator().manual_seed(3)
    means = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1) * 0.4
    means[:, 2] += 2
    scales = 0.008 * (0.5 + torch.rand(count, 3, generator=g))
    quaternions = torch.randn(count, 4, generator=g)
    return Gaussians(means, scales, quaternions, torch.full((count,), opacity))


def camera(height=38, width=53, dtype=torch.float64, focal=50.0) -> Camera:
    """A camera with an off-centre principal point, oblong pixels, and partial tiles."""
    focal_px = torch.tensor([focal, 1.1 * focal], dtype=dtype)
    return Camera.identity(focal_px, torch.tensor([24.3, 20.1], dtype=dtype), height, width)


def channels(count, dtype=torch.float64, seed=1) -> dict[str, Channel]:
    g = torch.Generator().manual_seed(seed)
    sizes = {"rgb": (3, True), "aux": (3, False), "depth": (1, True), "ids": (7, False)}
    return {
        name: Channel(torch.randn(count, size, generator=g, dtype=torch.float64).to(dtype), moves)
        for name, (size, moves) in sizes.items()
    }


def leaves(gaussians: Gaussians, values: dict[str, Channel]):
    """Copies that require gradients."""
    tensors = [getattr(gaussians, f.name) for f in fields(Gaussians)]
    tensors = [t.detach().clone().requires_grad_() for t in tensors]
    values = {
        name: Channel(c.values.detach().clone().requires_grad_(), c.geometry)
        for name, c in values.items()
    }
    return Gaussians(*tensors), values


def gradients(render, gaussians: Gaussians, view: Camera, values: dict[str, Channel], mask=None):
    """Gradients by name of a fixed random functional of the rendering, inside ``mask``."""
    gaussians, values = leaves(gaussians, values)
    result = render(gaussians, view, values)
    g = torch.Generator().manual_seed(2)
    total = 0
    for image in [result.alpha, *result.images.values()]:
        weight = torch.randn(image.shape, generator=g, dtype=torch.float64).to(image)
        total = total + (image * (weight if mask is None else weight * mask.to(image))).sum()
    total.backward()
    return {
        **{f.name: getattr(gaussians, f.name).grad for f in fields(Gaussians)},
        **{name: c.values.grad for name, c in values.items()},
    }


def error(a, b):
    """Largest difference relative to the largest value."""
    return float((a.double() - b.double()).abs().max() / b.abs().max().clamp_min(1e-12))
