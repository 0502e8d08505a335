"""Query points on a body, their skinning, and how Gaussians follow them into a pose."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from persona.modules.body.joints import HEAD_JOINTS, LEFT_HAND, RIGHT_HAND
from persona.modules.body.nearest import nearest_vertex
from persona.modules.body.rotation import quaternion_from_matrix, quaternion_product
from persona.modules.body.skinning import blend_bones, blend_skin
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import vertex_normals
from persona.modules.lhm.decoder import PointGaussians
from persona.modules.lhm.neighbours import PARTNERS, neighbour_order, partners
from persona.modules.lhm.transformer import BODY_SHARE
from persona.types import BodyIdentity, Gaussians

LEGS_APART = math.pi / 9
"""Roll of the canonical pose's hips, radians."""
UPPER_JOINTS = (0, 3, 6, 9, 13, 14, 16, 17, 18, 19, 20, 21, *range(25, 55))
LOWER_JOINTS = (0, 1, 2, 4, 5, 7, 8, 10, 11)
"""Joints whose points are the upper and the lower body; the pelvis is of both."""


class PointTemplate(nn.Module):
    """Query points with the skinning weights and the expressions of what they lie on.

    The order of the warp: offset and expression are added in the canonical pose, which skinning
    takes back to the rest pose; there the person's shape is added, and skinning takes it all to the
    target pose, whose joints are the person's. There are no pose blend shapes.

    Source: LHM, arXiv:2503.10625, 3.3, and its released inference.

    Args:
        rest: The points in the T-pose of the body that has no one's shape, metres.
        weights: Weights of each point.
        expr_dirs: What expressions move each point by.
        canonical_bones: canonical_from_rest of that body.
        stiff: Points whose Gaussians do not turn with the body.
        partners: See ``neighbours.partners``; None makes every point its own.
    """

    points: Float[Tensor, "n 3"]
    """In the canonical pose, metres: what the network sees."""
    weights: Float[Tensor, "n j"]
    expr_dirs: Float[Tensor, "n 3 e"]
    bones: Float[Tensor, "j 4 4"]
    """rest_from_canonical."""
    stiff: Bool[Tensor, "n"]
    partners: Int[Tensor, "n 3"]

    def __init__(
        self,
        rest: Float[Tensor, "n 3"],
        weights: Float[Tensor, "n j"],
        expr_dirs: Float[Tensor, "n 3 e"],
        canonical_bones: Float[Tensor, "j 4 4"],
        stiff: Bool[Tensor, "n"] | None = None,
        partners: Int[Tensor, "n 3"] | None = None,
    ) -> None:
        super().__init__()
        itself = torch.arange(len(rest))[:, None].repeat(1, PARTNERS)
        constants = {
            "points": blend_skin(rest, weights, canonical_bones), "weights": weights,
            "expr_dirs": expr_dirs, "bones": torch.linalg.inv(canonical_bones),
            "stiff": torch.zeros(len(rest), dtype=torch.bool) if stiff is None else stiff,
            "partners": itself if partners is None else partners,
        }  # fmt: skip
        for name, value in constants.items():
            self.register_buffer(name, value.detach().clone(), persistent=False)

    def joint_points(self, joints: tuple[int, ...]) -> Bool[Tensor, "n"]:
        """Points that follow one of some joints most."""
        owner = self.weights.argmax(1)
        return torch.isin(owner, torch.tensor(joints, device=owner.device))

    @property
    def upper(self) -> Bool[Tensor, "n"]:
        """Points of the upper body, whose scales are bounded more tightly."""
        return self.joint_points(UPPER_JOINTS)

    def groups(self) -> dict[str, Int[Tensor, "_"]]:
        """Rows of the groups that the regularisers weigh; no group is empty on a whole body."""
        joints = {
            "head": HEAD_JOINTS, "lower_body": LOWER_JOINTS, "upper_body": UPPER_JOINTS,
            "hands": (*LEFT_HAND, *RIGHT_HAND),
        }  # fmt: skip
        return {name: self.joint_points(of).nonzero()[:, 0] for name, of in joints.items()}

    def carry(
        self,
        gaussians: PointGaussians,
        shape: Float[Tensor, "*#b n 3"],
        expression: Float[Tensor, "e"],
        bones: Float[Tensor, "*#b j 4 4"],
        trans: Float[Tensor, "*#b 3"],
    ) -> tuple[Float[Tensor, "*c n 3"], Float[Tensor, "*c n 4"]]:
        """Means and quaternions in one pose or many, in the frame of ``trans``.

        Args:
            gaussians: Of one person, or of many with dimensions that match those of the poses.
                Several for each point are a dimension more.
            shape: What the person's shape adds to each point in the rest pose, metres.
            expression: Expression of the face.
            bones: posed_from_rest, by the person's rest joints.
            trans: Metres.
        """
        canonical = self.points + gaussians.offset + self.expr_dirs @ expression
        turn, shift = blend_bones(self.weights, bones[..., :3, :]).split([3, 1], -1)
        # Both skinnings are one, of which several Gaussians of a point need the last step alone.
        first_turn, first_shift = blend_bones(self.weights, self.bones[:, :3]).split([3, 1], -1)
        shift = _turned(turn, first_shift[..., 0] + shape) + shift[..., 0] + trans[..., None, :]
        turn = turn @ first_turn
        means = _turned(turn, canonical) + shift
        # Blended matrices are not quite rotations.
        turned, own = torch.broadcast_tensors(quaternion_from_matrix(turn), gaussians.quaternions)
        turned = quaternion_product(turned, own)
        return means, torch.where(self.stiff[:, None], own, turned)

    def pose(
        self,
        gaussians: PointGaussians,
        shape: Float[Tensor, "n 3"],
        expression: Float[Tensor, "e"],
        bones: Float[Tensor, "j 4 4"],
        trans: Float[Tensor, "3"],
    ) -> Gaussians:
        """Gaussians of one person in one pose; see ``carry``."""
        means, quaternions = self.carry(gaussians, shape, expression, bones, trans)
        return Gaussians(means, gaussians.scales, quaternions, gaussians.opacity)


def _turned(
    matrices: Float[Tensor, "*#b n 3 3"], points: Float[Tensor, "*#b n 3"]
) -> Float[Tensor, "*b n 3"]:
    """Matrices times points, column by column: products of 3 x 3 take several times as long."""
    x, y, z = points.split(1, -1)
    return matrices[..., 0] * x + matrices[..., 1] * y + matrices[..., 2] * z


def template_on(
    body: SmplxBody, rest: Float[Tensor, "n 3"], stiff: Bool[Tensor, "p"] | None = None
) -> tuple[PointTemplate, Int[Tensor, "n"]]:
    """A template of points on a body, and the vertex that each takes its constants from.

    Args:
        body: Any of SMPL-X's layout.
        rest: Points on it in its T-pose, metres, the body's, then the head's.
        stiff: Vertices whose points do not turn with the body.
    """
    vertex = nearest_vertex(rest, body.template)
    _, _, bones = body.canonical(body.zero_identity(), LEGS_APART)
    template = PointTemplate(
        rest, body.weights[vertex], body.expr_dirs[vertex], bones,
        None if stiff is None else stiff[vertex],
        partners(rest, vertex_normals(body.template, body.faces)[vertex]),
    )  # fmt: skip
    return template, vertex


def shape_offsets(
    body: SmplxBody, identity: BodyIdentity, vertex: Int[Tensor, "n"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "j 3"]]:
    """What a naked person's shape adds to points on some vertices, and the rest joints; metres.

    ``face_offset`` has the clothes, and ``joint_offset`` takes back what they move the joints by.
    """
    vertices, joints = body.shape(identity)
    return (vertices - identity.face_offset - body.template)[vertex], joints


def sample_points(body: SmplxBody, count: int, seed: int = 0) -> Float[Tensor, "n 3"]:
    """Points on the surface of the body in its T-pose: three quarters, then those of the head.

    Each part is covered evenly: one point in each of as many strips of equal area, faces in
    their order on the surface. In each, neighbours follow each other: see ``neighbour_order``.
    """
    owner = body.weights.argmax(1)
    head = torch.isin(owner, torch.tensor(HEAD_JOINTS))[body.faces].all(1)
    rng = torch.Generator().manual_seed(seed)
    first = int(BODY_SHARE * count)
    parts = [(~head, first), (head, count - first)]
    found = [_on_faces(body.template, body.faces[of], n, rng) for of, n in parts]
    return torch.cat([points[neighbour_order(points)] for points in found])


def _on_faces(
    vertices: Float[Tensor, "p 3"], faces: Int[Tensor, "f 3"], count: int, rng: torch.Generator
) -> Float[Tensor, "n 3"]:
    corners = vertices[faces]
    sides = corners[:, 1:] - corners[:, :1]
    ends = torch.linalg.cross(sides[:, 0], sides[:, 1]).norm(dim=1).double().cumsum(0)
    place = (torch.arange(count) + torch.rand(count, generator=rng)) / count * ends[-1]
    face = torch.searchsorted(ends, place.double()).clamp(max=len(faces) - 1)
    u, v = torch.rand(2, count, 1, generator=rng)
    # Half of a square folded onto the other: uniform on the triangle.
    u, v = torch.where(u + v > 1, 1 - u, u), torch.where(u + v > 1, 1 - v, v)
    return corners[face, 0] + u * sides[face, 0] + v * sides[face, 1]
