"""Colours of Gaussians by which their render shows pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.render.gaussian import GaussianRenderer
from persona.types import Camera, Channel, Gaussians, Render

_UPDATES, _HOLD = 12, 0.1
"""Steps, and the weight of a colour's change, in pixels."""


@dataclass(frozen=True)
class Shot:
    """A picture, and Gaussians as they stand in it."""

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
    """Colours with which renders show the pictures, as near as possible to those at first.

    A render is linear in its colours. So this is a least-squares problem: the squared differences
    of pixels and, weighted by ``hold``, of colours; a few steps of conjugate gradients solve it.

    Args:
        renderer: Gaussian rasteriser.
        shots: The pictures.
        rgb: At first.
        hold: Weight of a colour's change, in pixels.
    """

    def missing(shot: Shot) -> Float[Tensor, "3 h w"]:
        before = _render(renderer, shot, rgb)
        return shot.image * before.alpha - before.images["c"]

    with torch.no_grad():
        parts = [_gathered(renderer, shot, missing(shot)) for shot in shots]
        left = torch.stack(parts).sum(0)
        change, direction, size = torch.zeros_like(rgb), left, left.square().sum()
        for _ in range(_UPDATES):
            turned = hold * direction
            for shot in shots:
                drawn = _render(renderer, shot, direction).images["c"]
                turned = turned + _gathered(renderer, shot, drawn)
            step = size / (direction * turned).sum().clamp(min=1e-20)
            change, left = change + step * direction, left - step * turned
            before, size = size, left.square().sum()
            direction = left + size / before.clamp(min=1e-20) * direction
        return (rgb + change).clamp(0, 1)


def shown_px(renderer: GaussianRenderer, shot: Shot) -> Float[Tensor, "n"]:
    """How many of the pixels that count each Gaussian makes up: what is hidden has none."""
    white = torch.ones_like(shot.image)
    return _gathered(renderer, replace(shot, shade=torch.ones_like(shot.shade)), white)[:, 0]


def best_views(shown: Sequence[Float[Tensor, "n"]], most: int) -> list[int]:
    """Numbers of views that together show the most, chosen one after the other.

    Args:
        shown: How well each view shows each Gaussian.
        most: How many views at most; a view that adds nothing is not taken.
    """
    chosen: list[int] = []
    best = torch.zeros_like(shown[0])
    for _ in range(min(most, len(shown))):
        gains = torch.stack([(view - best).clamp(min=0).sum() for view in shown])
        number = int(gains.argmax())
        if not gains[number] > 0:
            break
        chosen.append(number)
        best = torch.maximum(best, shown[number])
    return chosen


def _render(renderer: GaussianRenderer, shot: Shot, values: Float[Tensor, "n 3"]) -> Render:
    colours = Channel(values * shot.shade, geometry=False)
    return renderer(shot.gaussians, shot.camera, {"c": colours})


def _gathered(
    renderer: GaussianRenderer, shot: Shot, pixels: Float[Tensor, "3 h w"]
) -> Float[Tensor, "n 3"]:
    """What each Gaussian gets of pixels that count, as it gives them its colour."""
    with torch.enable_grad():
        values = shot.gaussians.means.new_zeros(len(shot.shade), 3).requires_grad_()
        drawn = _render(renderer, shot, values).images["c"]
        return torch.autograd.grad(drawn, values, shot.mask * pixels)[0]
