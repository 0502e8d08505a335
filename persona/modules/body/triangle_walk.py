"""Moves points over a triangle mesh by steps in barycentric coordinates."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

INSIDE = 1e-3
"""A point this little outside of its triangle is drawn back instead of crossing the side."""
DECAY = 0.9
"""What is left of a step behind each side that it crosses."""
MAX_CROSSINGS = 24
"""A step of one triangle's size that decays by ``DECAY`` ends long before."""


class Across(NamedTuple):
    """What lies behind side i of each triangle, the one that faces its corner i."""

    face: Int[Tensor, "f 3"]
    """Neighbour; -1 at the border of the mesh."""
    corner: Int[Tensor, "f 3 3"]
    """For side i, the neighbour's corner that takes the weight of each corner of this triangle: the
    far corner takes that of corner i."""


def across_sides(faces: Int[Tensor, "f 3"]) -> Across:
    """Neighbours of an oriented mesh. A side that is not shared by just two faces is a border."""
    count = len(faces)
    start, end = faces.roll(-1, 1).flatten().long(), faces.roll(-2, 1).flatten().long()
    size = int(faces.max()) + 1
    own, back = start * size + end, end * size + start
    order = own.argsort()
    place = torch.searchsorted(own[order], back).clamp(max=3 * count - 1)
    side = order[place]
    _, inverse, uses = torch.unique(own, return_inverse=True, return_counts=True)
    paired = (own[side] == back) & (uses[inverse] == 1) & (uses[inverse[side]] == 1)
    face = torch.where(paired, side // 3, -1).view(count, 3)
    # This side runs from corner i + 1 to i + 2, the neighbour's the other way.
    far = (side % 3).view(count, 3)
    own_corner = torch.arange(3, device=faces.device).expand(count, 3)
    corner = torch.zeros(count, 3, 3, dtype=torch.long, device=faces.device)
    corner.scatter_(2, own_corner[..., None], far[..., None])
    corner.scatter_(2, ((own_corner + 1) % 3)[..., None], ((far + 2) % 3)[..., None])
    corner.scatter_(2, ((own_corner + 2) % 3)[..., None], ((far + 1) % 3)[..., None])
    return Across(face, corner)


@torch.no_grad()
def walk(
    across: Across,
    face: Int[Tensor, "n"],
    barycentric: Float[Tensor, "n 3"],
    step: Float[Tensor, "n 2"],
) -> tuple[Int[Tensor, "n"], Float[Tensor, "n 3"]]:
    """Where points end that step over the mesh; those that meet its border stop there.

    At a side the rest of the step goes on in the neighbour as if both triangles were halves of a
    parallelogram, times ``DECAY``. All points take turns together and none waits for another: the
    host asks the device for nothing.

    Source: Shao et al. 2024, arXiv:2403.05087, section 3.3, after Taylor et al. 2014.

    Args:
        across: ``across_sides`` of the mesh.
        face: Triangle of each point.
        barycentric: Weights of its corners, in [0, 1], sum 1.
        step: Change of the first two; the third changes by minus their sum.
    """
    way = torch.cat([step, -step.sum(1, keepdim=True)], 1)
    for _ in range(MAX_CROSSINGS):
        leaves = ((barycentric + way) < -INSIDE).any(1, keepdim=True)
        share = torch.where(way < 0, barycentric / -way, torch.inf)
        share, side = share.clamp_min(0).min(1, keepdim=True)
        share = share.clamp(max=1)
        met = (barycentric + share * way).clamp_min(0).scatter(1, side, 0.0)
        met = met / met.sum(1, keepdim=True)
        rest = DECAY * (1 - share) * way
        # In the parallelogram, corner i is the sum of the side's ends minus the far corner.
        beyond = rest.gather(1, side)
        turned = (rest + beyond).scatter(1, side, -beyond)
        behind = across.face[face].gather(1, side)
        to = across.corner[face].gather(1, side[..., None].expand(-1, 1, 3))[:, 0]
        crosses, stops = leaves & (behind >= 0), leaves & (behind < 0)
        there = torch.zeros_like(met).scatter(1, to, met)
        onward = torch.zeros_like(turned).scatter(1, to, turned)
        barycentric = torch.where(crosses, there, torch.where(stops, met, barycentric))
        way = torch.where(crosses, onward, torch.where(stops, 0.0, way))
        face = torch.where(crosses[:, 0], behind[:, 0], face)
    return face, _onto_triangle(barycentric + way)


def _onto_triangle(barycentric: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """What is outside comes back at right angles to the side, as if sides were equally long."""
    inside = barycentric.clamp_min(0)
    excess = inside.sum(1, keepdim=True) - 1
    inside = (inside - excess / 2 * (inside > 0)).clamp_min(0)
    return inside / inside.sum(1, keepdim=True)
