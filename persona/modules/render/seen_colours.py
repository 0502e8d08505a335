"""Colours of Gaussians by which their render shows photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.render.gaussian import GaussianRenderer
from persona.types import Camera, Channel, Gaussians, Render

_UPDATES, _HOLD = 12, 0.1
"""Steps, and the weight of a colour's change, in pixels."""


@dataclass(frozen=True)
class Shot:
    """A photograph, and Gaussians as they stand in it."""

    gaussians: Gaussians
    camera: Camera
    image: Float[Tensor, "3 h w"]
    """In [0, 1]."""
    mask: Float[Tensor, "1 h w"]
    """Where it counts."""
    shade: Float[Tensor, "n 1"]
    """Light on each Gaussian, by which its colour is multiplied; ones for colours as seen."""


def seen_colours(
    renderer: GaussianRenderer,
    shots: Sequence[Shot],
    rgb: Float[Tensor, "n 3"],
    *,
    hold: float = _HOLD,
) -> Float[Tensor, "n 3"]:
    """Colours with which renders show the photographs, as near as possible to those at first.

    A render is linear in its colours. So this is a least-squares problem: the squared differences
    of pixels and, weighted by ``hold``, of colours; a few steps of conjugate gradients solve it.

    Args:
        renderer: Gaussian rasteriser.
        shots: The photographs.
        rgb: At first.
        hold: Weight of a colour's change, in pixels.
    """

    def render(shot: Shot, values: Float[Tensor, "n 3"]) -> Render:
        colours = Channel(values * shot.shade, geometry=False)
        return renderer(shot.gaussians, shot.camera, {"c": colours})

    def drawn(shot: Shot, values: Float[Tensor, "n 3"]) -> Float[Tensor, "3 h w"]:
        return render(shot, values).images["c"]

    def gathered(shot: Shot, pixels: Float[Tensor, "3 h w"]) -> Float[Tensor, "n 3"]:
        with torch.enable_grad():
            values = torch.zeros_like(rgb, requires_grad=True)
            return torch.autograd.grad(drawn(shot, values), values, shot.mask * pixels)[0]

    def missing(shot: Shot) -> Float[Tensor, "3 h w"]:
        before = render(shot, rgb)
        return shot.image * before.alpha - before.images["c"]

    with torch.no_grad():
        left = torch.stack([gathered(shot, missing(shot)) for shot in shots]).sum(0)
        change, direction, size = torch.zeros_like(rgb), left, left.square().sum()
        for _ in range(_UPDATES):
            turned = hold * direction
            for shot in shots:
                turned = turned + gathered(shot, drawn(shot, direction))
            step = size / (direction * turned).sum().clamp(min=1e-20)
            change, left = change + step * direction, left - step * turned
            before, size = size, left.square().sum()
            direction = left + size / before.clamp(min=1e-20) * direction
        return (rgb + change).clamp(0, 1)
