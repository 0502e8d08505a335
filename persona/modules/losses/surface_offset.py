"""Supervision of the offsets by simulated clothes, in three dimensions."""

from jaxtyping import Float
from torch import Tensor

from persona.modules.losses.base import Loss
from persona.modules.losses.persona_step import PersonaStep


class SurfaceOffset(Loss[PersonaStep]):
    """Pulls the refined Gaussians of clothes to their simulated places from ``generator=cloth``."""

    frames = "generated"

    def forward(self, step: PersonaStep) -> Float[Tensor, ""] | None:
        """Metres; None for a person without simulated clothes."""
        if step.surface is None:
            return None
        return step.surface.distance(step.frame.index[0], step.avatar.template, step.posed)
