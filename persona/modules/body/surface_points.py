"""Points that are tied to a triangle mesh, and what the mesh does to them as it moves.

Source: SplattingAvatar, Shao et al. 2024, arXiv:2403.05087, sections 3.1 and 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from persona.modules.body.rotation import quaternion_from_matrix
from persona.modules.body.triangle_walk import Across, walk
from persona.types import TensorTuple

ROUNDS, STEPS, RATE = 2, 50, 0.01
"""For ``closest_points``: number of walks, Adam's steps before each, and its rate in barycentric
weights."""


@dataclass(frozen=True)
class SurfacePoints(TensorTuple):
    """Places on a mesh."""

    face: Int[Tensor, "n"]
    barycentric: Float[Tensor, "n 3"]
    """Weights of the face's corners, sum 1."""

    def slid(self, step: Float[Tensor, "n 2"]) -> SurfacePoints:
        """Moved in the planes of their triangles, out of them too; differentiable.

        step: change of the first two weights; the third makes up for it.
        """
        moved = torch.cat([step, -step.sum(1, keepdim=True)], 1)
        return SurfacePoints(self.face, self.barycentric + moved)

    def blend(
        self, values: Float[Tensor, "p *c"], faces: Int[Tensor, "f 3"]
    ) -> Float[Tensor, "n *c"]:
        """Values of vertices at the points."""
        corners = values.index_select(0, faces[self.face].flatten()).unflatten(0, (-1, 3))
        weights = self.barycentric.view(*self.barycentric.shape, *[1] * (values.dim() - 1))
        return (corners * weights).sum(1)


def random_points(
    faces: Int[Tensor, "f 3"], count: int, generator: torch.Generator | None = None
) -> SurfacePoints:
    """Equally many on each face in the mean, uniform inside: more where a mesh is finer."""
    face = torch.randint(len(faces), (count,), generator=generator)
    one, two = torch.rand(count, 2, generator=generator).unbind(1)
    root = one.sqrt()
    weights = torch.stack([1 - root, root * (1 - two), root * two], 1)
    return SurfacePoints(face, weights).to(faces.device)


def phong_positions(
    points: SurfacePoints,
    height: Float[Tensor, "n 1"],
    vertices: Float[Tensor, "p 3"],
    normals: Float[Tensor, "p 3"],
    faces: Int[Tensor, "f 3"],
) -> Float[Tensor, "n 3"]:
    """Positions above the mesh along its blended, then normalised, vertex normals.

    Args:
        points: Feet.
        height: Signed, in units of the mesh.
        vertices: Vertices of the mesh.
        normals: Normals of its vertices, unit.
        faces: Faces of the mesh.
    """
    feet = points.blend(torch.cat([vertices, normals], 1), faces)
    return feet[:, :3] + height * F.normalize(feet[:, 3:], dim=-1)


def vertex_turns(
    canonical: Float[Tensor, "p 3"], posed: Float[Tensor, "p 3"], faces: Int[Tensor, "f 3"]
) -> Float[Tensor, "p 4"]:
    """Unit quaternion (w, x, y, z) of how far the mesh has turned about each vertex.

    The mean of the turns of its faces, by their canonical areas. Quaternions that a sum is taken of
    have the sign of their mean rotation's: nobody stands with all faces near half a turn from it,
    while the sign of w flips in a body that faces a camera whose axes point the other way.
    """
    turns = face_frames(posed, faces) @ face_frames(canonical, faces).transpose(1, 2)
    area = face_areas(canonical, faces)[:, None]
    mean = quaternion_from_matrix((turns * area[..., None]).sum(0) / area.sum())
    by_face = quaternion_from_matrix(turns)
    by_face = torch.where((by_face * mean).sum(1, keepdim=True) < 0, -by_face, by_face) * area
    total = by_face.new_zeros(len(canonical), 4)
    return F.normalize(total.index_add(0, faces.T.flatten(), by_face.repeat(3, 1)), dim=-1)


def face_frames(
    vertices: Float[Tensor, "p 3"], faces: Int[Tensor, "f 3"]
) -> Float[Tensor, "f 3 3"]:
    """Orthonormal columns: across the first side in the plane, the normal, the side; right-handed.

    Zero where a face has no area.
    """
    a, b, c = vertices[faces].unbind(1)
    side = F.normalize(b - a, dim=-1)
    normal = torch.linalg.cross(b - a, c - a)
    across = F.normalize(torch.linalg.cross(side, normal), dim=-1)
    return torch.stack([across, torch.linalg.cross(side, across), side], -1)


def face_areas(vertices: Float[Tensor, "p 3"], faces: Int[Tensor, "f 3"]) -> Float[Tensor, "f"]:
    """In squared units of the mesh."""
    a, b, c = vertices[faces].unbind(1)
    return torch.linalg.cross(b - a, c - a).norm(dim=-1) / 2


def area_ratios(
    canonical: Float[Tensor, "p 3"],
    posed: Float[Tensor, "p 3"],
    faces: Int[Tensor, "f 3"],
    floor: float,
) -> Float[Tensor, "f"]:
    """How much larger each face has become; ``floor``, added to both areas, calms slivers."""
    before, after = face_areas(canonical, faces), face_areas(posed, faces)
    return (after + floor) / (before + floor)


def turn_vectors(
    quaternions: Float[Tensor, "*b 4"], vectors: Float[Tensor, "*b 3"]
) -> Float[Tensor, "*b 3"]:
    """Vectors turned by unit quaternions."""
    w, axis = quaternions[..., :1], quaternions[..., 1:]
    across = torch.linalg.cross(axis, vectors)
    return vectors + 2 * (w * across + torch.linalg.cross(axis, across))


def closest_points(
    targets: Float[Tensor, "n 3"],
    start: SurfacePoints,
    vertices: Float[Tensor, "p 3"],
    normals: Float[Tensor, "p 3"],
    across: Across,
    faces: Int[Tensor, "f 3"],
) -> SurfacePoints:
    """Feet from which the Phong surface's normals lead to the targets.

    In turns, all points at once slide in the planes of their triangles and rise along the normals
    until nothing moves, and then walk. A turn begins as high as the target is far.

    Args:
        targets: In units of the mesh, which is about one large.
        start: Where the search begins, near the targets.
        vertices: Vertices of the mesh.
        normals: Normals of its vertices.
        across: Neighbours of its faces.
        faces: Faces of the mesh.
    """
    points = start
    for _ in range(ROUNDS):
        far = (targets - points.blend(vertices, faces)).norm(dim=1, keepdim=True)
        place = torch.cat([torch.zeros_like(targets[:, :2]), far], 1).requires_grad_()
        optimizer = torch.optim.Adam([place], lr=RATE)
        with torch.enable_grad():
            for _ in range(STEPS):
                slid = points.slid(place[:, :2])
                reached = phong_positions(slid, place[:, 2:], vertices, normals, faces)
                # Adam does not mind the factor; it keeps gradients far above its epsilon.
                (place.grad,) = torch.autograd.grad(100 * F.mse_loss(reached, targets), place)
                optimizer.step()
        points = SurfacePoints(*walk(across, *_parts(points), place.detach()[:, :2]))
    return points


def _parts(points: SurfacePoints) -> tuple[Int[Tensor, "n"], Float[Tensor, "n 3"]]:
    return points.face, points.barycentric
