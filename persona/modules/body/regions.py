"""Body regions, found from skinning weights, topology and the expression basis.

No lists of vertex ids: the same rules serve every SMPL-X-shaped body.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from persona.errors import UserError
from persona.modules.body.joints import EYES, HEAD_JOINTS, LEFT_HAND, RIGHT_HAND
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import Subdivision, edges, rings, vertex_normals
from persona.types import TensorTuple

LIP_KEYPOINTS = slice(71, 91)
"""Outer and inner lips in COCO-WholeBody order."""
MOVED = 0.03
"""A vertex is in ``face_expr`` if expressions move it by this part of the largest motion."""
NEAR_LIPS = 0.2
"""What counts as near the lips, in widths of the mouth."""
BOUNDARY_RINGS = 4
MOUTH_RINGS = 2


@dataclass(frozen=True)
class BodyRegions(TensorTuple):
    """Masks over the vertices; they overlap (``face_expr`` and ``eye`` are parts of ``face``)."""

    left_hand: Bool[Tensor, "p"]
    right_hand: Bool[Tensor, "p"]
    hand: Bool[Tensor, "p"]
    """Both hands, from the wrist."""
    face: Bool[Tensor, "p"]
    """The whole head: what follows the head, jaw and eye joints most."""
    face_expr: Bool[Tensor, "p"]
    """What expressions move, with the inside of the mouth, without eyeballs and neck."""
    eye: Bool[Tensor, "p"]
    """Eyeballs."""
    expr_boundary: Bool[Tensor, "p"]
    """``face_expr`` within four rings of the rest of the face."""
    mouth_in: Bool[Tensor, "p"]
    """Inner lips and what lies behind them."""
    mouth_out: Bool[Tensor, "p"]
    """The ring around ``mouth_in``."""

    def subdivide(self, subdivision: Subdivision) -> BodyRegions:
        """Masks on the subdivided mesh: a vertex belongs only if its mean is 1."""
        return self._map(subdivision.masks)


@torch.no_grad()
def body_regions(body: SmplxBody) -> BodyRegions:
    """Finds the regions of a body; they do not depend on identity or pose.

    Raises:
        UserError: No inner lips where the body's keypoints put the mouth.
    """
    owner = body.weights.argmax(1)
    left, right = _any_of(owner, LEFT_HAND), _any_of(owner, RIGHT_HAND)
    face, eye = _any_of(owner, HEAD_JOINTS), _any_of(owner, EYES)
    motion = body.expr_dirs.flatten(1).norm(dim=1)
    moved = face & ~eye & (motion > MOVED * motion.max())
    vertices, joints = body.shape(body.zero_identity())
    lips = body.keypoints(vertices, joints)[LIP_KEYPOINTS]
    inner_lips = moved & _faces_back_near(vertices, body.faces, lips)
    if not inner_lips.any():
        raise UserError(f"{body.name}: no inner lips at its lip keypoints; rebuild the body file")
    mouth_in = _inner_mouth(vertices, body.faces, inner_lips, face & ~eye, lips)
    face_expr = _fill(body.faces, moved | mouth_in, face & ~eye)
    still = face & ~face_expr & ~eye
    return BodyRegions(
        left_hand=left,
        right_hand=right,
        hand=left | right,
        face=face,
        face_expr=face_expr,
        eye=eye,
        expr_boundary=face_expr & rings(body.faces, still, BOUNDARY_RINGS),
        mouth_in=mouth_in,
        mouth_out=rings(body.faces, mouth_in, 1) & ~mouth_in,
    )


def _any_of(owner: Int[Tensor, "p"], joints: tuple[int, ...]) -> Bool[Tensor, "p"]:
    return torch.isin(owner, torch.tensor(joints, device=owner.device))


def _fill(
    faces: Int[Tensor, "f 3"], region: Bool[Tensor, "p"], within: Bool[Tensor, "p"]
) -> Bool[Tensor, "p"]:
    """Adds the holes: all of ``within`` but the largest connected part outside the region."""
    rest = within & ~region
    part = _components(faces, rest)
    return within & ~(rest & (part == _largest(part, rest)))


def _faces_back_near(
    vertices: Float[Tensor, "p 3"], faces: Int[Tensor, "f 3"], lips: Float[Tensor, "k 3"]
) -> Bool[Tensor, "p"]:
    """Vertices near the lips' box whose normal points backwards."""
    low, high = lips.min(0).values, lips.max(0).values
    distance = (vertices - vertices.clamp(low, high)).norm(dim=1)
    return (vertex_normals(vertices, faces)[:, 2] < 0) & (distance < NEAR_LIPS * (high[0] - low[0]))


def _inner_mouth(
    vertices: Float[Tensor, "p 3"],
    faces: Int[Tensor, "f 3"],
    inner_lips: Bool[Tensor, "p"],
    head: Bool[Tensor, "p"],
    lips: Float[Tensor, "k 3"],
) -> Bool[Tensor, "p"]:
    """Inner lips, what they cut off from the outer skin, and two rings around both.

    Where the body has a mouth cavity, the inner lips close it off from the skin: without them it
    is a part of its own, as teeth and a tongue are.
    """
    width = lips[:, 0].max() - lips[:, 0].min()
    part = _components(faces, ~inner_lips)
    body_part = _largest(part, ~inner_lips)
    inside = inner_lips.clone()
    for label in part[head & ~inner_lips & (part != body_part)].unique():
        members = part == label
        offset = (vertices[members].mean(0) - lips.mean(0)).abs()
        if head[members].all() and offset[0] < width / 2 and offset[1] < width:
            inside |= members
    return rings(faces, inside, MOUTH_RINGS) & head


def _components(faces: Int[Tensor, "f 3"], kept: Bool[Tensor, "p"]) -> Int[Tensor, "p"]:
    """Labels of the connected parts of the vertices that are kept."""
    edge = edges(faces)
    edge = edge[kept[edge].all(1)].cpu()
    size = len(kept)
    graph = coo_array((torch.ones(len(edge)).numpy(), edge.T.numpy()), shape=(size, size))
    return torch.from_numpy(connected_components(graph, directed=False)[1]).long().to(kept.device)


def _largest(part: Int[Tensor, "p"], kept: Bool[Tensor, "p"]) -> Int[Tensor, ""]:
    """Label of the part with the most kept vertices."""
    return torch.bincount(part, kept.float()).argmax()
