"""Losses of SplattingAvatar: the person cut out and set before a random colour; thin Gaussians."""

from __future__ import annotations

from typing import cast

from jaxtyping import Float
from torch import Tensor

from persona.modules.losses.base import Loss, Step, channels_of
from persona.modules.losses.perceptual import Perceptual
from persona.modules.losses.random_colors import RandomColors


class MattedImage(Loss[Step]):
    """l1 |x - y| + square (x - y)^2 + lpips LPIPS(x, y), means over the image.

    Both the render and the truth stand before one colour, another in each step: what is not the
    person must be transparent. The truth is cut out by the frame's mask.

    Source: Shao et al. 2024, arXiv:2403.05087, section 3.4; weights are the published code's.

    Args:
        weight: Weight of the term.
        view: What is compared.
        perceptual: LPIPS network; None leaves the term out.
        l1: Weight of the absolute difference.
        square: Weight of the squared difference.
        lpips: Weight of LPIPS.
    """

    def __init__(
        self,
        *,
        weight: float,
        view: str,
        perceptual: Perceptual | None = None,
        l1: float = 1.0,
        square: float = 10.0,
        lpips: float = 0.01,
    ) -> None:
        super().__init__(weight=weight)
        self.view, self.perceptual = view, perceptual
        self.l1, self.square, self.lpips = l1, square, lpips
        self.reads = channels_of(view, {"rgb", "alpha"})
        self.backgrounds = RandomColors()

    def forward(self, step: Step) -> Float[Tensor, ""]:
        """The avatar counts the steps (``steps``), by which the colour is chosen."""
        count = cast("int", step.avatar.steps)
        background = self.backgrounds(count, step.frame.index)
        color = background[:, None, None].expand_as(step.frame.image[0])
        mask = step.frame.mask[0]
        ours = step.over(self.view, "rgb", color)
        truth = step.truth(self.view) * mask + color * (1 - mask)
        difference = ours - truth
        value = self.l1 * difference.abs().mean() + self.square * difference.square().mean()
        if self.perceptual is not None and self.lpips:
            step.compare(self.perceptual, ours, truth, self.lpips)
        return value


class ThinScale(Loss[Step]):
    """Mean of the largest scale of Gaussians that are long and thin; zero where there are none.

    Source: Shao et al. 2024, as published.

    Args:
        weight: Weight of the term.
        view: Whose Gaussians.
        long_m: Those whose largest scale is above this.
        ratio: And so many times their smallest.
        per_m: Units in a metre that the scale is measured in; FLAME's in the published code.
    """

    def __init__(
        self,
        *,
        weight: float,
        view: str,
        long_m: float = 0.002,
        ratio: float = 10.0,
        per_m: float = 4.0,
    ) -> None:
        super().__init__(weight=weight)
        self.view, self.long_m, self.ratio, self.per_m = view, long_m, ratio, per_m

    def forward(self, step: Step) -> Float[Tensor, ""]:
        """Metres times ``per_m``."""
        scales = step.posed.gaussians(self.view).scales
        long, short = scales.amax(1), scales.amin(1)
        thin = ((long > self.long_m) & (long > self.ratio * short)).to(long)
        return self.per_m * (long * thin).sum() / thin.sum().clamp_min(1)
