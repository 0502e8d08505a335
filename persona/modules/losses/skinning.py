"""What keeps learnt skinning near the body's."""

from jaxtyping import Float
from torch import Tensor

from persona.modules.losses.base import Loss
from persona.modules.losses.persona_step import PersonaStep


class LearntSkinningPrior(Loss[PersonaStep]):
    """Neighbours share their correction, and what no picture asks for is none.

    Zero for an avatar whose skinning is not learnt.

    Args:
        weight: of the term.
        shrink: of the corrections themselves, beside their Laplacian.
    """

    def __init__(self, *, weight: float, shrink: float) -> None:
        super().__init__(weight=weight)
        self.shrink = shrink

    def forward(self, step: PersonaStep) -> Float[Tensor, ""]:
        """Squared logarithms of factors."""
        avatar = step.avatar
        if avatar.skinning is None:
            return avatar.mean_offset.new_zeros(())
        return avatar.skinning.roughness(avatar.template) + self.shrink * avatar.skinning.size()
