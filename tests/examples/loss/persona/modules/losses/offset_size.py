"""Keeps the pose-driven offsets small."""

from jaxtyping import Float
from torch import Tensor

from persona.modules.losses.base import Loss
from persona.modules.losses.persona_step import PersonaStep


class OffsetSize(Loss[PersonaStep]):
    """Mean squared length of what the offset network adds to the canonical means."""

    def forward(self, step: PersonaStep) -> Float[Tensor, ""]:
        """Metres squared."""
        offset = step.posed.refined_canonical - step.posed.base_canonical
        return offset.square().sum(-1).mean()
