"""Losses of an AniGS-style avatar: outline, normals, round Gaussians, small and smooth offsets."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from persona.modules.avatar.anigs import AniGsAvatar, PosedAniGs
from persona.modules.body.topology import uniform_laplacian
from persona.modules.losses.base import Loss, Step, channels_of
from persona.modules.losses.geometry import normal_error

VIEW = "points"


@dataclass
class AniGsStep(Step):
    """One frame of a training step, as its view has the person."""

    avatar: AniGsAvatar
    posed: PosedAniGs


class Outline(Loss[AniGsStep]):
    """Mean absolute difference of opacity and mask."""

    reads = channels_of(VIEW, {"alpha"})

    def forward(self, step: AniGsStep) -> Float[Tensor, ""]:
        """In [0, 1]."""
        return (step.renders[VIEW].alpha - step.frame.mask[0]).abs().mean()


class Normal(Loss[AniGsStep]):
    """Normals of the Gaussians' mesh against the frame's, see ``normal_error``."""

    reads = channels_of(VIEW, {"normal"})

    def forward(self, step: AniGsStep) -> Float[Tensor, ""]:
        """Mean over the image."""
        render = step.renders[VIEW]
        return normal_error(render.images["normal"], render.alpha, step.frame.normal[0])


class Anisotropy(Loss[AniGsStep]):
    """By how much a Gaussian's longest axis exceeds so many times its shortest, mean.

    Long thin Gaussians look right along one line of sight and stick out in other poses.
    Source: Xie et al. 2024, PhysGaussian, arXiv:2311.12198, Eq. 16, which AniGS takes over.

    Args:
        weight: Weight of the term.
        ratio: What is free.
    """

    def __init__(self, *, weight: float, ratio: float = 3.0) -> None:
        super().__init__(weight=weight)
        self.ratio = ratio

    def forward(self, step: AniGsStep) -> Float[Tensor, ""]:
        """Without a unit."""
        scales = step.posed.points.scales
        return (scales.amax(1) / scales.amin(1) - self.ratio).clamp_min(0).mean()


class CanonicalLaplacian(Loss[AniGsStep]):
    """Squared Laplacian of the canonical Gaussians' offsets from the body.

    Offsets, not positions: fingers and faces keep their shape, clothes are smooth.
    """

    def forward(self, step: AniGsStep) -> Float[Tensor, ""]:
        """Metres squared."""
        offset = step.posed.mean_offset
        return uniform_laplacian(offset, step.avatar.template.neighbours).square().mean()


class ViewOffsetSize(Loss[AniGsStep]):
    """Mean squared size of what a view adds, in units of ``shift_m`` and of ``logit``.

    It decides whose an error is that all views share: the canonical person's, for whom it is free.

    Args:
        weight: Weight of the term.
        shift_m: Shift that counts 1, metres.
        logit: Change of colour that counts 1.
    """

    def __init__(self, *, weight: float, shift_m: float = 0.01, logit: float = 0.2) -> None:
        super().__init__(weight=weight)
        self.shift_m, self.logit = shift_m, logit

    def forward(self, step: AniGsStep) -> Float[Tensor, ""] | None:
        """None where no view is asked for."""
        offsets = step.posed.offsets
        if offsets is None:
            return None
        shift = (offsets.shift / self.shift_m).square().mean()
        rest = (offsets.log_scale.square() + offsets.turn.square()).mean()
        return shift + rest + (offsets.rgb / self.logit).square().mean()
