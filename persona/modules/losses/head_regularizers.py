"""Losses of a head's networks: bases like the body model's, a true surface, small codes."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.head.avatar import PosedHead
from persona.modules.head.deformer import Bases
from persona.modules.head.lora import without_additions
from persona.modules.losses.base import Loss
from persona.modules.losses.head_step import HeadStep

LENGTH = 10.0
"""Bases are compared times this."""


def base_distances(
    predicted: Bases, model: Bases, variance: Float[Tensor, "e"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean squared differences of skinning, pose basis and expression basis.

    Args:
        predicted: By the deformer.
        model: Values of the body model's nearest vertices.
        variance: Of each expression coefficient over the training: those that hardly move pull
            harder.
    """
    weights = (predicted.weights - model.weights).square().mean()
    pose = (LENGTH * (predicted.pose - model.pose)).square().mean()
    difference = (LENGTH * (predicted.expression - model.expression)).square()
    return weights, pose, (difference / variance).mean() / len(variance)


class ModelBases(Loss[HeadStep]):
    """Pulls predicted bases to those of the nearest vertices, less and less.

    Source: IMAvatar, arXiv:2112.07471; weights and epochs are PointAvatar's.

    Args:
        weight: of the term.
        halve_at: epochs at which it is halved.
        skinning: weight of the skinning weights.
        pose: weight of the pose basis.
        expression: weight of the expression basis.
    """

    def __init__(
        self,
        *,
        weight: float,
        halve_at: Sequence[int] = (10, 20, 30, 40),
        skinning: float = 0.1,
        pose: float = 10.0,
        expression: float = 10.0,
    ) -> None:
        super().__init__(weight=weight)
        self.halve_at, self.parts = tuple(halve_at), (skinning, pose, expression)

    def forward(self, step: HeadStep) -> Float[Tensor, ""]:
        """Sum of the three."""
        posed = step.posed
        variance = step.avatar.expression_variance
        values = base_distances(posed.bases, posed.model_bases, variance)
        total = torch.stack([w * v for w, v in zip(self.parts, values, strict=True)]).sum()
        epoch = step.avatar.epoch
        halved = sum(((epoch >= at).to(total) for at in self.halve_at), torch.zeros_like(total))
        return total * torch.exp2(-halved)


class OnSurface(Loss[HeadStep]):
    """Mean squared signed distance of the points: they lie on the surface."""

    def forward(self, step: HeadStep) -> Float[Tensor, ""]:
        """In the networks' unit, squared."""
        _, drawn = step.surface
        return drawn.surface.sdf.square().mean()


def eikonal(gradients: Float[Tensor, "n 3"]) -> Float[Tensor, ""]:
    """How far gradients are from unit length, mean square."""
    return (gradients.norm(dim=1) - 1).square().mean()


class Eikonal(Loss[HeadStep]):
    """Keeps the signed distance one, at the points and beside them.

    Source: Gropp et al. 2020, arXiv:2002.10099.

    Args:
        weight: of the term.
        beside: side of the cube around a point in which another is drawn, in the networks' unit.
    """

    def __init__(self, *, weight: float, beside: float = 0.1) -> None:
        super().__init__(weight=weight)
        self.beside = beside

    def forward(self, step: HeadStep) -> Float[Tensor, ""]:
        """Mean over both kinds of points."""
        points = step.posed.warped.points.detach()
        moved = points + self.beside * (torch.rand_like(points) - 0.5)
        look, drawn = step.surface
        near = look.surface.gradient(moved, step.posed.who.latent)
        return eikonal(torch.cat([drawn.gradient, near]))


class CodeSize(Loss[HeadStep]):
    """Mean square of an edit's code, or of the whole latent.

    Source: PERSE, arXiv:2412.21206, section 4.3 (code); PEGASUS, arXiv:2402.10636 (latent).

    Args:
        weight: of the term.
        whole: whether it is of the latent.
    """

    def __init__(self, *, weight: float, whole: bool = False) -> None:
        super().__init__(weight=weight)
        self.whole = whole

    def forward(self, step: HeadStep) -> Float[Tensor, ""] | None:
        """None for a head without edits."""
        who = step.posed.who
        values = who.latent if self.whole else who.code
        return values.square().mean() if len(values) else None


class KeepsOthers(Loss[HeadStep]):
    """How far low-rank additions move the Gaussians of random codes of the edited attribute.

    Source: PERSE, arXiv:2412.21206, appendix A.4 (the 3D loss).

    Args:
        weight: of the term.
        std: of the random codes.
    """

    def __init__(self, *, weight: float, std: float = 0.05) -> None:
        super().__init__(weight=weight)
        self.std = std

    def forward(self, step: HeadStep) -> Float[Tensor, ""] | None:
        """Mean absolute differences of place, colour, scale, rotation and opacity, added up.

        None for a head without edits, or as it was photographed.
        """
        avatar, slots = step.avatar, step.avatar.edits.slots
        if slots is None or step.frame.view.subject is None:
            return None
        slot = avatar.edits.slot.index_select(0, step.frame.view.subject.view(1))[0]
        code = self.std * torch.randn_like(step.posed.who.code)
        view = replace(step.frame.view, latent=slots.edited(slot, code))
        with torch.no_grad(), without_additions(avatar):
            before = _described(avatar(step.pose, view))
        after = _described(avatar(step.pose, view))
        return sum(
            ((x - y).abs().mean() for x, y in zip(before, after, strict=True)),
            code.new_zeros(()),
        )


def _described(posed: PosedHead) -> tuple[Tensor, ...]:
    """What the term compares."""
    points = posed.points
    return points.means, posed.drawn.rgb, points.scales, points.quaternions, points.opacities
