"""What covers the naked body, and the offsets that this implies before outlines are fitted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from persona.data.preprocess.parts import PARTS
from persona.modules.body.hull import reach, sphere, support
from persona.modules.body.smplx_body import SmplxBody
from persona.types import TensorTuple

_TOES = {"Left": 10, "Right": 11}
_DIRECTIONS = 400


@dataclass(frozen=True)
class Cover(TensorTuple):
    """Masks over the vertices."""

    bare: Bool[Tensor, "p"]
    """Skin."""
    skirt: Bool[Tensor, "p"]
    """Leg vertices that carry a skirt."""
    hair: Bool[Tensor, "p"]
    """Hair below the ears, hidden sides included."""
    lying: Bool[Tensor, "p"]
    """Hair that lies on trunk and arms."""
    ears: Bool[Tensor, "p"]
    """Ears that stand out of the head, covered ones left out."""

    @classmethod
    def none(cls, size: int) -> Cover:
        """Clothes everywhere."""
        return cls(*torch.zeros(5, size, dtype=torch.bool))


def sock_offset(
    body: SmplxBody,
    rest: Float[Tensor, "p 3"],
    limbs: Int[Tensor, "p"],
    bare: Bool[Tensor, "p"],
    visible: Bool[Tensor, "p"],
) -> Float[Tensor, "p 3"]:
    """Offsets that close the gaps between the toes of a foot in sock or shoe."""
    offset = torch.zeros_like(rest)
    for side, joint in _TOES.items():
        seen = visible & (limbs == PARTS.index(f"{side}_Foot"))
        toes = (body.weights[:, joint] > 0.3).nonzero()[:, 0]
        if not seen.any() or bare[seen].float().mean() > 0.5:
            continue
        centre = rest[toes].mean(0)
        away = rest[toes] - centre
        radius = away.norm(dim=-1, keepdim=True).clamp(min=1e-4)
        directions = sphere(_DIRECTIONS)
        span = reach(away / radius, directions, support(away, directions))
        offset[toes] = (span[:, None] / radius - 1).clamp(min=0) * away
    return offset
