"""Regularisers on the Gaussians themselves."""

import torch
from jaxtyping import Float
from torch import Tensor

from persona.modules.avatar.template import AvatarTemplate
from persona.modules.body.topology import uniform_laplacian
from persona.modules.losses.base import Loss, channels_of
from persona.modules.losses.functional import total_variation
from persona.modules.losses.persona_step import PersonaStep


def region_weight(template: AvatarTemplate, fine: float, hands: float) -> Float[Tensor, "n 1"]:
    """Weight of each Gaussian by its region, 1 where none is named.

    Args:
        template: Template of the avatar.
        fine: On what expressions move, and on the eyes.
        hands: On the hands and on the rim of what expressions move; holds where both apply.
    """

    def make() -> Tensor:
        weight = torch.where(template.face_expr | template.eye, fine, 1.0)
        return torch.where(template.hand | template.expr_boundary, hands, weight)[:, None]

    return template.once(("region weight", fine, hands), make)


class MeanLaplacian(Loss[PersonaStep]):
    """Squared Laplacian of the base canonical means.

    On hands, eyes and what expressions move it is the difference from the template's Laplacian:
    a finger should keep its shape, while cloth should be smooth. On a garment as well, whose
    borders would else be drawn in.
    Source: PERSONA, arXiv:2508.09973 (lap_mean).

    Args:
        weight: of the term.
        fine: factor on eyes and on what expressions move.
        hands: factor on the hands and on the rim of what expressions move.
    """

    def __init__(self, *, weight: float, fine: float = 50.0, hands: float = 10.0) -> None:
        super().__init__(weight=weight)
        self.fine, self.hands = fine, hands

    def forward(self, step: PersonaStep) -> Float[Tensor, ""]:
        """Metres squared."""
        template = step.avatar.template
        value = uniform_laplacian(step.posed.base_canonical, template.neighbours)
        rest = template.once(
            "fixed laplacian",
            lambda: (
                uniform_laplacian(template.vertices, template.neighbours)
                * (template.fixed | template.garment)[:, None]
            ),
        )
        weight = region_weight(template, self.fine, self.hands)
        return ((value - rest).square() * weight).mean()


class RefinedLaplacian(Loss[PersonaStep]):
    """Squared Laplacian of the posed refined means, except on hands, eyes and face_expr.

    Source: PERSONA, arXiv:2508.09973 (lap_mean_refined).

    Args:
        weight: of the term.
        hands: as in ``MeanLaplacian``; without effect, since all that it weighs is excepted.
    """

    def __init__(self, *, weight: float, hands: float = 10.0) -> None:
        super().__init__(weight=weight)
        self.hands = hands

    def forward(self, step: PersonaStep) -> Float[Tensor, ""]:
        """Metres squared."""
        template = step.avatar.template
        value = uniform_laplacian(step.posed.refined, template.neighbours)
        weight = template.once(
            ("free weight", self.hands),
            lambda: region_weight(template, 1.0, self.hands) * ~template.fixed[:, None],
        )
        return (value.square() * weight).mean()


class OffsetLaplacian(Loss[PersonaStep]):
    """Squared Laplacian of what training adds to the template, except on hands, eyes and face_expr.

    Those of the means pull a surface towards a smooth one: limbs become thinner, hems and cuffs are
    drawn in, and a template that has the clothes' shape already loses it. This one lets it go where
    the outline is, but not by single Gaussians.
    """

    def forward(self, step: PersonaStep) -> Float[Tensor, ""]:
        """Metres squared."""
        template = step.avatar.template
        offset = step.posed.refined_canonical - template.vertices
        value = uniform_laplacian(offset, template.neighbours)
        return (value.square() * ~template.fixed[:, None]).mean()


class ScaleLaplacian(Loss[PersonaStep]):
    """Squared Laplacian of the scales on the subdivided and on the body's own mesh.

    Source: PERSONA, arXiv:2508.09973 (lap_scale).
    """

    def forward(self, step: PersonaStep) -> Float[Tensor, ""]:
        """Metres squared."""
        template, scales = step.avatar.template, step.posed.scales
        fine = uniform_laplacian(scales, template.neighbours)
        coarse = scales[: len(template.coarse_vertices)]
        coarse = uniform_laplacian(coarse, template.coarse_neighbours)
        return fine.square().mean() + coarse.square().mean()


class ColorLaplacian(Loss[PersonaStep]):
    """Squared Laplacian of rgb. Source: PERSONA, arXiv:2508.09973 (lap_rgb)."""

    def forward(self, step: PersonaStep) -> Float[Tensor, ""]:
        """Colour squared."""
        return uniform_laplacian(step.posed.albedo, step.avatar.template.neighbours).square().mean()


class HandColor(Loss[PersonaStep]):
    """Pulls the hands' colours to the auxiliary ones, which generated frames show from all sides.

    Source: PERSONA, arXiv:2508.09973 (hand_rgb).
    """

    def forward(self, step: PersonaStep) -> Float[Tensor, ""]:
        """Colour squared."""
        hand = step.avatar.template.hand[:, None]
        difference = step.posed.rgb - step.posed.rgb_aux.detach()
        return (difference.square() * hand).sum() / (3 * hand.sum())


class MouthColor(Loss[PersonaStep]):
    """Pulls the inside of the mouth to the mean colour of the ring of skin around it.

    Source: PERSONA, arXiv:2508.09973 (mouth_in_rgb).
    """

    def forward(self, step: PersonaStep) -> Float[Tensor, ""]:
        """Colour squared."""
        template, rgb = step.avatar.template, step.posed.rgb
        outside, inside = template.mouth_out[:, None], template.mouth_in[:, None]
        mean = ((rgb * outside).sum(0) / outside.sum().clamp_min(1)).detach()
        return ((rgb - mean).square() * inside).sum() / (3 * inside.sum()).clamp_min(1)


class HandVariation(Loss[PersonaStep]):
    """Total variation of each hand, rendered by itself, where its alpha is above 0.9.

    Source: PERSONA, arXiv:2508.09973 (hand_rgb_tv).
    """

    views = ("left_hand", "right_hand")

    def __init__(self, *, weight: float) -> None:
        super().__init__(weight=weight)
        self.reads = frozenset().union(
            *(channels_of(v, {"rgb_fixed", "alpha"}) for v in self.views)
        )

    def forward(self, step: PersonaStep) -> Float[Tensor, ""]:
        """Mean absolute difference of neighbours."""
        left, right = (
            total_variation(r.images["rgb_fixed"], r.alpha.detach() > 0.9)
            for r in (step.renders[view] for view in self.views)
        )
        return left + right
