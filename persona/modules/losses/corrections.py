"""A loss that keeps learnt corrections of skinning and normals small and smooth."""

from jaxtyping import Float
from torch import Tensor

from persona.errors import check_choice
from persona.modules.body.topology import uniform_laplacian
from persona.modules.losses.base import Loss
from persona.modules.losses.persona_step import PersonaStep

CORRECTIONS = ("skinning", "normals")


class CorrectionPrior(Loss[PersonaStep]):
    """Corrections are smooth over neighbours, and zero where no picture needs one.

    Zero for an avatar that has no such corrections.

    Args:
        weight: of the term.
        of: ``skinning`` (logarithms of factors) or ``normals`` (tilts).
        shrink: weight of the corrections themselves beside their Laplacian's.
    """

    def __init__(self, *, weight: float, of: str, shrink: float) -> None:
        super().__init__(weight=weight)
        check_choice("CorrectionPrior: of", of, CORRECTIONS)
        self.of, self.shrink = of, shrink

    def forward(self, step: PersonaStep) -> Float[Tensor, ""]:
        """Squared logarithms, or squared tilts."""
        avatar = step.avatar
        values: Tensor | None
        if self.of == "skinning":
            values = None if avatar.skinning is None else avatar.skinning.log_factor
        else:
            values = None if avatar.normals is None else avatar.normals.tilt
        if values is None:
            return avatar.mean_offset.new_zeros(())
        rough = uniform_laplacian(values, avatar.template.coarse_neighbours).square().mean()
        return rough + self.shrink * values.square().mean()
