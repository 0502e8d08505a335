"""Colours of Gaussians by which their render shows a photograph."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.render.gaussian import GaussianRenderer
from persona.types import Camera, Channel, Gaussians

_UPDATES, _HOLD = 12, 0.1
"""Steps, and the weight of a colour's change, in pixels."""


def seen_colours(
    renderer: GaussianRenderer,
    gaussians: Gaussians,
    camera: Camera,
    rgb: Float[Tensor, "n 3"],
    image: Float[Tensor, "3 h w"],
    mask: Float[Tensor, "1 h w"],
    hold: float = _HOLD,
) -> Float[Tensor, "n 3"]:
    """Colours with which a render shows the photograph, as near as possible to those at first.

    A render is linear in its colours. So this is a least-squares problem: the squared differences
    of pixels and, weighted by ``hold``, of colours; a few steps of conjugate gradients solve it.

    Args:
        renderer: Gaussian rasteriser.
        gaussians: As they stand in the photograph.
        camera: The photograph's.
        rgb: At first.
        image: In [0, 1].
        mask: Where it counts.
        hold: Weight of a colour's change, in pixels.
    """

    def drawn(values: Float[Tensor, "n 3"]) -> Float[Tensor, "3 h w"]:
        return renderer(gaussians, camera, {"c": Channel(values, geometry=False)}).images["c"]

    def gathered(pixels: Float[Tensor, "3 h w"]) -> Float[Tensor, "n 3"]:
        with torch.enable_grad():
            values = torch.zeros_like(rgb, requires_grad=True)
            return torch.autograd.grad(drawn(values), values, mask * pixels)[0]

    with torch.no_grad():
        alpha = renderer(gaussians, camera, {}).alpha
        left = gathered(image * alpha - drawn(rgb))
        change, direction, size = torch.zeros_like(rgb), left, left.square().sum()
        for _ in range(_UPDATES):
            turned = gathered(drawn(direction)) + hold * direction
            step = size / (direction * turned).sum().clamp(min=1e-20)
            change, left = change + step * direction, left - step * turned
            before, size = size, left.square().sum()
            direction = left + size / before.clamp(min=1e-20) * direction
        return (rgb + change).clamp(0, 1)
