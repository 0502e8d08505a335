"""Shape of hair on the fitted, bald body.

Ears under hair are laid flat, so that they do not show through it, and hair that falls below the
ears becomes a curtain from the head's girth down around sides and back of the neck. The girth above
is the outline's, as for clothes.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from persona.data.preprocess.parts import PARTS
from persona.modules.body.hull import circle, reach, support
from persona.modules.body.regions import BodyRegions
from persona.modules.body.topology import neighbours, uniform_laplacian, vertex_normals

PROTRUDING_M = 0.006
"""How far an ear stands out of the smoothed head at least."""
EAR_DEPTH_M = 0.004
"""How far a covered ear still stands out."""
_EAR_HEIGHT_M = 0.07
"""Ears lie within this height of the eyes."""
_SMOOTHING_STEPS = 60
_CURTAIN_STEPS = 15
_MIN_SEEN = 6
_LONG_M = 0.03
"""Hair is long if it is seen this far below the head's lowest vertices at the back."""
_FRONT, _SIDE = 0.4, 0.0
"""Cosine to the front from which the neck is free, and below which hair hides it."""
_SHOULDERS = 1.5
"""How far hair spreads on the shoulders, in girths of the head."""
_DIRECTIONS = 48


def ear_vertices(
    rest: Float[Tensor, "p 3"], faces: Int[Tensor, "f 3"], regions: BodyRegions
) -> tuple[Bool[Tensor, "p"], Float[Tensor, "p 3"]]:
    """Vertices of the ears; and the smoothed surface that they stand out of."""
    near, smooth = neighbours(faces, len(rest)), rest
    for _ in range(_SMOOTHING_STEPS):
        smooth = smooth - uniform_laplacian(smooth, near)
    out = ((rest - smooth) * vertex_normals(smooth, faces)).sum(-1)
    # Ears are at the height of the eyes, at the sides.
    eyes = rest[regions.eye].mean(0)
    beside = (rest[:, 0] - eyes[0]).abs() > 0.7 * (rest[regions.face, 0] - eyes[0]).abs().amax()
    level = (rest[:, 1] - eyes[1]).abs() < _EAR_HEIGHT_M
    return regions.face & beside & level & (out > PROTRUDING_M), smooth


def flat_ears(
    rest: Float[Tensor, "p 3"],
    faces: Int[Tensor, "f 3"],
    regions: BodyRegions,
    skin: Bool[Tensor, "p"],
    visible: Bool[Tensor, "p"],
) -> tuple[Float[Tensor, "p 3"], Bool[Tensor, "p"]]:
    """Offsets that lay the ears flat, unless what is seen is mostly skin; ears left standing."""
    ears, smooth = ear_vertices(rest, faces, regions)
    shown = ears & visible
    offset = torch.zeros_like(rest)
    if shown.sum() < _MIN_SEEN or skin[shown].float().mean() > 0.5:
        return offset, ears
    target = smooth + EAR_DEPTH_M * vertex_normals(smooth, faces)
    offset[ears] = (target - rest)[ears]
    return offset, torch.zeros_like(ears)


def hair_end(
    rest: Float[Tensor, "p 3"],
    limbs: Int[Tensor, "p"],
    hair: Bool[Tensor, "p"],
    visible: Bool[Tensor, "p"],
) -> float | None:
    """Height down to which hair falls over neck and shoulders; None for short hair."""
    head = limbs == PARTS.index("Face_Neck")
    below = visible & hair & ~head
    if below.sum() < _MIN_SEEN:
        return None
    low = float(rest[below, 1].quantile(0.1))
    return low if low < float(rest[head, 1].min()) - _LONG_M else None


def curtain(
    rest: Float[Tensor, "p 3"],
    faces: Int[Tensor, "f 3"],
    limbs: Int[Tensor, "p"],
    regions: BodyRegions,
    hair: Bool[Tensor, "p"],
    visible: Bool[Tensor, "p"],
    end_m: float,
) -> tuple[Float[Tensor, "p 3"], Bool[Tensor, "p"]]:
    """Offsets of long hair around the neck; and all vertices below the ears that it hides."""
    head, neck = (limbs == PARTS.index(name) for name in ("Face_Neck", "Neck"))
    top = float(rest[regions.eye, 1].mean())
    section = rest[head & ((rest[:, 1] - top).abs() < 0.02), ::2]
    centre = (section.amax(0) + section.amin(0)) / 2
    directions = circle(_DIRECTIONS)
    girth = support(section - centre, directions)
    away = rest[:, ::2] - centre
    radius = away.norm(dim=-1, keepdim=True).clamp(min=1e-4)
    ray = away / radius
    span = reach(ray, directions, girth)
    # Skin that the photograph shows stays free of hair.
    hidden = ((_FRONT - ray[:, 1]) / (_FRONT - _SIDE)).clamp(0, 1)
    hidden = torch.where(visible, hair.float(), hidden)
    falling = (head & ~regions.face_expr & ~regions.eye | neck) & (rest[:, 1] < top)
    falling &= rest[:, 1] > end_m
    grown = (span - radius[:, 0]).clamp(min=0) * hidden * falling
    near = neighbours(faces, len(rest))
    for _ in range(_CURTAIN_STEPS):
        grown = grown - uniform_laplacian(grown[:, None], near)[:, 0] * falling
    offset = torch.zeros_like(rest)
    offset[:, ::2] = grown[:, None] * ray
    shoulders = (limbs == PARTS.index("Torso")) & (rest[:, 1] > end_m)
    shoulders &= radius[:, 0] < _SHOULDERS * span
    return offset, (falling | shoulders) & (hidden > 0.5)
