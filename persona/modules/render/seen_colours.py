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
        shots: The pictures; those in which no Gaussian is seen where pixels count tell nothing.
        rgb: At first.
        hold: Weight of a colour's change, in pixels.
    """
    with torch.no_grad():
        parts = [part for shot in shots if len((part := _Shares(renderer, shot)).rows)]
        if not parts:
            return rgb
        left = torch.stack([part.gathered(part.missing(rgb)) for part in parts]).sum(0)
        change, direction, size = torch.zeros_like(rgb), left, left.square().sum()
        for _ in range(_UPDATES):
            turned = hold * direction
            for part in parts:
                turned = turned + part.gathered(part.render(direction).images["c"])
            step = size / (direction * turned).sum().clamp(min=1e-20)
            change, left = change + step * direction, left - step * turned
            before, size = size, left.square().sum()
            direction = left + size / before.clamp(min=1e-20) * direction
        return (rgb + change).clamp(0, 1)


class _Shares:
    """What each Gaussian adds to the pixels of a shot that count: a linear map of colours.

    Gaussians that add nothing are left out of all renders. That changes only pixels that do not
    count, and those where such a one is opaque and ends the sum, by what little it hides.

    Args:
        renderer: Gaussian rasteriser.
        shot: The shot.
    """

    def __init__(self, renderer: GaussianRenderer, shot: Shot) -> None:
        self.renderer, self.count = renderer, len(shot.shade)
        self.rows = (shown_px(renderer, shot) > 0).nonzero()[:, 0]
        self.shot = replace(shot, gaussians=shot.gaussians[self.rows], shade=shot.shade[self.rows])
        if len(self.rows):  # Of no Gaussians a render passes no gradients.
            self.values, self.drawn = _open_render(renderer, self.shot)

    def render(self, values: Float[Tensor, "n 3"]) -> Render:
        """The shot with some colours of all Gaussians."""
        return _render(self.renderer, self.shot, values[self.rows])

    def missing(self, values: Float[Tensor, "n 3"]) -> Float[Tensor, "3 h w"]:
        """What a render lacks of the picture."""
        render = self.render(values)
        return self.shot.image * render.alpha - render.images["c"]

    def gathered(self, pixels: Float[Tensor, "3 h w"]) -> Float[Tensor, "n 3"]:
        """What each Gaussian gets of pixels that count, as it gives them its colour."""
        (own,) = torch.autograd.grad(
            self.drawn, self.values, self.shot.mask * pixels, retain_graph=True
        )
        return own.new_zeros(self.count, 3).index_copy(0, self.rows, own)


def shown_px(renderer: GaussianRenderer, shot: Shot) -> Float[Tensor, "n"]:
    """How many of the pixels that count each Gaussian makes up: what is hidden has none."""
    even = replace(shot, shade=torch.ones_like(shot.shade))
    values, drawn = _open_render(renderer, even)
    return torch.autograd.grad(drawn, values, shot.mask.expand_as(drawn))[0][:, 0]


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


def _open_render(
    renderer: GaussianRenderer, shot: Shot
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "3 h w"]]:
    """Colours, and an image that passes gradients on to them."""
    with torch.enable_grad():
        values = shot.gaussians.means.new_zeros(len(shot.shade), 3).requires_grad_()
        return values, _render(renderer, shot, values).images["c"]
