"""A skirt that the body's skin carries, taken off it: one closed surface beside bare legs.

A photograph's dressing widens both legs until they overlap, so that the outline is right; each
would follow its own bones, and the skirt split when the legs part. The garment is a tube of rings
around both, from the hips to the hem, in the rest pose, and the skin inside is bare again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from persona.modules.body.smplx_body import SmplxBody
from persona.modules.cloth.tube import (
    BAND_M,
    LEGS,
    TRUNK,
    eased,
    garment_of,
    hull_rings,
    weights_near,
)
from persona.types import BodyIdentity

_LEVEL_M = 0.01
MIN_LENGTH_M = 0.15
"""Shortest skirt, measured from where legs would part to the hem; thighs of trousers touch for
less."""
_BELOW_M, _FAR_M = 0.08, 0.03
"""A vertex as far below the hem, and this far from the skin, belongs to the skirt still: it would
hang out of the garment."""
_BARE_M = 0.15
"""Height below the garment's top over which its wearer becomes bare."""
_BLEND_M, _TUCKED_M = 0.08, 0.01
"""Height over which the garment rises out of the skin, and how deep its first ring lies in it: it
must not be seen to end there."""
_OWN_M = 0.2
"""How far below its top the garment has weights of its own; above, those of the skin beside it."""
_SMOOTH_M = 0.06
ALIKE_M = 0.05
"""A garment has the colours of the skin that it was made of. Skin that faces another way counts as
so much farther away, per unit of its normal: walls that legs turn to each other show shadow."""


class Undressed(NamedTuple):
    """A person whose skirt is a garment."""

    identity: BodyIdentity
    """With the garment, bare under it; joints are where they were."""
    covered: Bool[Tensor, "p"]
    """Vertices of the body that the skirt was made of."""


def undress(body: SmplxBody, identity: BodyIdentity) -> Undressed | None:
    """Takes the skirt off a dressed person; None where the legs are apart, as trousers have them.

    Args:
        body: Body model.
        identity: With the shape of its clothes on ``face_offset``.
    """
    rest, joints = body.shape(identity)
    strongest = body.weights.argmax(-1)
    legs = tuple(torch.isin(strongest, torch.tensor(side)) for side in LEGS)
    hem = _hem(rest, legs, float(joints[[1, 2], 1].mean()), float(joints[[7, 8], 1].mean()))
    if hem is None:
        return None
    # The torso alone is not enough: buttocks and hips follow the thighs as well.
    around = legs[0] | legs[1] | torch.isin(strongest, torch.tensor(TRUNK))
    top = float(joints[0, 1])
    rings = hull_rings(rest[around], top, hem)
    if rings is None:
        return None
    depth = top - rings[..., 1:2]
    # The first ring must not leave the skin that it ends on.
    own = eased(depth[:, :1] / _OWN_M)
    weights = weights_near(rings, rest[around], body.weights[around], own)
    share = _share(rest, around, identity.face_offset, top, hem)
    outward = rings - rings.mean(1, keepdim=True)
    tucked = _TUCKED_M * (1 - eased(depth / _BLEND_M))
    rings = rings - tucked * outward / outward.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    bare = _bare(body, identity, share)
    return Undressed(replace(bare, garment=garment_of(rings, weights)), share > 0)


def _share(
    rest: Float[Tensor, "p 3"],
    around: Bool[Tensor, "p"],
    offset: Float[Tensor, "p 3"],
    top: float,
    hem: float,
) -> Float[Tensor, "p"]:
    """How much of each vertex's offset is the garment: from 0 on skin to 1."""
    inside = eased((top - rest[:, 1]) / _BARE_M)
    below = eased(offset.norm(dim=-1) / _FAR_M) * (rest[:, 1] >= hem - _BELOW_M)
    return torch.where(rest[:, 1] >= hem, inside, below) * around


def _bare(body: SmplxBody, identity: BodyIdentity, share: Float[Tensor, "p"]) -> BodyIdentity:
    """The person without the offsets of the skirt, every joint where it was."""
    off, root = -share[:, None] * identity.face_offset, body.joint_regressor[0]
    # The root has no offset of its own: hidden hips move, smoothly, until its regressed place is
    # kept. They move by 2 cm at most on a skirt that is 10 cm off them behind.
    rows = share.nonzero()[:, 0]
    apart = torch.cdist(body.template[rows], body.template[rows])
    moves = share[rows] * (torch.exp(-((apart / _SMOOTH_M) ** 2)) @ (share * root)[rows])
    weight = moves @ root[rows]
    if weight > 0:
        off[rows] -= moves[:, None] * (root @ off) / weight
    joint_offset = identity.joint_offset - body.joint_regressor @ off
    joint_offset[0] = identity.joint_offset[0]
    return replace(identity, face_offset=identity.face_offset + off, joint_offset=joint_offset)


def _hem(
    rest: Float[Tensor, "p 3"], legs: tuple[Bool[Tensor, "p"], ...], top: float, bottom: float
) -> float | None:
    """Height of the lowest level down to which the legs overlap; None where they hardly do."""
    closed: list[float] = []
    for level in torch.arange(top, bottom, -_LEVEL_M):
        near = (rest[:, 1] - level).abs() < BAND_M
        left, right = (rest[leg & near, 0] for leg in legs)
        if len(left) and len(right) and float(left.min() - right.max()) < -BAND_M:
            closed.append(float(level))
        elif closed and closed[-1] - float(level) > BAND_M:
            break  # Flared trousers meet again further down.
    if not closed or closed[0] - closed[-1] < MIN_LENGTH_M:
        return None
    return closed[-1] + BAND_M  # The lowest level is one that the hem's vertices are near to.
