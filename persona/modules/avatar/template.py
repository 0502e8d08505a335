"""Avatar template: everything about a subject's Gaussians that never changes while training."""

from collections.abc import Callable, Hashable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from persona.modules.avatar.pose_code import ring_mask
from persona.modules.body.regions import BodyRegions, body_regions
from persona.modules.body.skinning import blend_bones
from persona.modules.body.skinning_field import SkinningField
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import (
    Neighbours,
    Subdivision,
    long_sides,
    neighbours,
    vertex_fans,
)
from persona.types import BodyIdentity, BodyPose

OPEN_MOUTH_RAD = 1 / 3
"""Jaw angle of the mesh that gives the triplane coordinates."""


class AvatarTemplate(nn.Module):
    """Subdivided canonical body of one identity; one Gaussian per vertex.

    Canonical means legs apart (hips at +-1/3 rad). Nothing here is trained and nothing is saved:
    it is rebuilt from the body and the identity.
    Source: PERSONA, arXiv:2508.09973; facts in sections 1 to 3 of its description.
    """

    vertices: Float[Tensor, "n 3"]
    """Canonical positions, metres."""
    weights: Float[Tensor, "n j"]
    """Subdivided mesh skinning weights."""
    expr_dirs: Float[Tensor, "n 3 e"]
    """What expressions add, metres."""
    faces: Int[Tensor, "g 3"]
    fans: Int[Tensor, "n k 2"]
    coarse_vertices: Float[Tensor, "p 3"]
    """Canonical positions on the body's own mesh, metres."""
    rest_joints: Float[Tensor, "j 3"]
    """In the T-pose, as ``rest_vertices`` (on the body's own mesh)."""
    rest_vertices: Float[Tensor, "p 3"]
    canonical_joints: Float[Tensor, "j 3"]
    rest_from_canonical: Float[Tensor, "j 4 4"]
    fine_index: Int[Tensor, "n k"]
    fine_valid: Bool[Tensor, "n k"]
    coarse_index: Int[Tensor, "p k"]
    coarse_valid: Bool[Tensor, "p k"]
    left_hand: Bool[Tensor, "n"]
    right_hand: Bool[Tensor, "n"]
    hand: Bool[Tensor, "n"]
    face: Bool[Tensor, "n"]
    face_expr: Bool[Tensor, "n"]
    eye: Bool[Tensor, "n"]
    expr_boundary: Bool[Tensor, "n"]
    mouth_in: Bool[Tensor, "n"]
    mouth_out: Bool[Tensor, "n"]
    fixed: Bool[Tensor, "n"]
    """Hands, face_expr and eyes: no pose offsets, and they keep the template's shape."""
    mesh_skinned: Bool[Tensor, "n"]
    """Hands, face and garment: skinned with the mesh's weights, not with diffused ones."""
    garment: Bool[Tensor, "n"]
    """What hangs beside the body."""
    left_hand_rows: Int[Tensor, "k"]
    right_hand_rows: Int[Tensor, "k"]
    moving: Int[Tensor, "m"]
    """Vertices of the network's mesh that have pose offsets."""
    moving_points: Float[Tensor, "m 3"]
    """Their triplane coordinates, metres."""
    moving_ring: Float[Tensor, "m 21"]
    """The body joints that the offset of each of them depends on."""

    def __init__(  # noqa: PLR0913
        self,
        *,
        body: SmplxBody,
        identity: BodyIdentity,
        levels: int,
        edge_m: float | None = None,
        detail_edge_m: float | None = None,
        network_level: int | None = None,
        ring_edges: int = 4,
        field_resolution: int = 128,
        field_steps: int = 100,
        diffused: bool = True,
        garment_at_rest: bool = False,
    ) -> None:
        super().__init__()
        self._made: dict[Hashable, Tensor] = {}
        skin = body.canonical(replace(identity, garment=None))[0], body.weights
        body, identity = body.dressed(identity)
        self.body, self.garment_at_rest = body, garment_at_rest
        faces = body.faces.cpu()
        self.coarse_regions: BodyRegions = body_regions(body)
        sides = None
        if edge_m is not None:
            detailed = self.coarse_regions.face | self.coarse_regions.hand
            detail = edge_m if detail_edge_m is None else detail_edge_m
            longest = torch.where(detailed.cpu(), detail, edge_m)
            # Use the mean body, so that a checkpoint has the same Gaussians wherever it is loaded.
            sides = long_sides(body.template.cpu(), faces, levels, longest)
        subdivision = Subdivision(faces, levels, len(body.template), sides)
        self.subdivision = subdivision
        canonical, joints, transforms = body.canonical(identity)
        if garment_at_rest:
            canonical = _returning(canonical, body, identity, transforms, len(skin[0]))
        rest, _ = body.shape(identity)
        weights = subdivision.features(body.weights)
        self._constant("coarse_vertices", canonical)
        self._constant("vertices", subdivision.features(canonical))
        self._constant("rest_joints", body.shape(identity)[1])
        self._constant("rest_vertices", rest)
        self._constant("canonical_joints", joints)
        self._constant("rest_from_canonical", torch.linalg.inv(transforms))
        self._constant("weights", weights)
        self._constant("expr_dirs", subdivision.features(body.expr_dirs))
        self._constant("faces", subdivision.faces)
        self._constant("fans", vertex_fans(subdivision.faces, subdivision.num_vertices))
        fine = neighbours(subdivision.faces, subdivision.num_vertices)
        coarse = neighbours(body.faces.cpu(), len(canonical))
        for name, value in (("fine", fine), ("coarse", coarse)):
            self._constant(f"{name}_index", value.index)
            self._constant(f"{name}_valid", value.valid)
        self.regions: BodyRegions = self.coarse_regions.subdivide(subdivision)
        for name in ("left_hand", "right_hand", "hand", "face", "face_expr", "eye"):
            self._constant(name, getattr(self.regions, name))
        for name in ("left_hand", "right_hand"):
            # Rows rather than a mask: a mask's size must be asked from the device.
            self._constant(f"{name}_rows", getattr(self.regions, name).nonzero()[:, 0])
        for name in ("expr_boundary", "mouth_in", "mouth_out"):
            self._constant(name, getattr(self.regions, name))
        self._constant("fixed", self.regions.hand | self.regions.face_expr | self.regions.eye)
        level = levels if network_level is None else min(network_level, levels)
        mesh = Subdivision(faces, level, len(body.template), sides)
        self.carry = Subdivision(
            mesh.faces, levels - level, mesh.num_vertices, sides and sides[level:]
        )
        self._prepare_offsets(mesh, ring_edges)
        beside = torch.arange(len(canonical), device=canonical.device) >= len(skin[0])
        self._constant("garment", subdivision.masks(beside))
        self._constant("mesh_skinned", self.regions.hand | self.regions.face | self.garment)
        self.field = (
            SkinningField.build(*skin, resolution=field_resolution, steps=field_steps)
            if diffused
            else None
        )

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def once(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What follows from the constants alone, made on first use and again after a move."""
        if key not in self._made:
            with torch.no_grad():
                self._made[key] = make()
        return self._made[key]

    def _apply(self, *args, **kwargs):
        self._made.clear()
        return super()._apply(*args, **kwargs)

    def _prepare_offsets(self, mesh: Subdivision, ring_edges: int) -> None:
        """Inputs of the offset network on ``mesh``; ``carry`` takes its offsets on."""
        regions = self.coarse_regions.subdivide(mesh)
        # Only these have pose offsets: the network never sees the others.
        moving = (~(regions.hand | regions.face_expr | regions.eye)).nonzero()[:, 0]
        ring = ring_mask(mesh.features(self.body.weights), self.body.parents, ring_edges)
        points = mesh.features(self._feature_points())
        self._constant("moving", moving)
        self._constant("moving_points", points[moving])
        self._constant("moving_ring", ring[moving])

    def express(self, expression: Float[Tensor, "e"]) -> Float[Tensor, "n 3"]:
        """What an expression adds to the canonical positions, metres: nothing but on the face."""
        rows = self.once("mimic", lambda: self.expr_dirs.flatten(1).any(1).nonzero()[:, 0])
        moving = self.once("mimic directions", lambda: self.expr_dirs[rows])
        return torch.zeros_like(self.vertices).index_copy(0, rows, moving @ expression)

    def carry_offsets(self, moved: Float[Tensor, "m 3"]) -> Float[Tensor, "n 3"]:
        """Offsets of the ``moving`` points to all Gaussians; zero where nothing moves."""
        offsets = moved.new_zeros(self.carry.num_base_vertices, 3)
        return self.carry.features(offsets.index_copy(0, self.moving, moved))

    def _feature_points(self) -> Float[Tensor, "p 3"]:
        """Open-mouthed zero-identity canonical mesh, centred: the triplane's coordinates.

        The open mouth keeps the lips apart in feature space.
        """
        body = self.body
        zero = body.zero_identity()
        pose = BodyPose.zero(body.num_expression)
        pose.jaw[0] = OPEN_MOUTH_RAD
        pose.body[0, 2] = 1 / 3
        pose.body[1, 2] = -1 / 3
        points = body(zero, pose)[0]
        return points - points.mean(0)

    @property
    def num_gaussians(self) -> int:
        """One per vertex of the subdivided mesh."""
        return len(self.vertices)

    @property
    def neighbours(self) -> Neighbours:
        """Neighbours on the subdivided mesh."""
        return Neighbours(self.fine_index, self.fine_valid)

    @property
    def coarse_neighbours(self) -> Neighbours:
        """Neighbours on the body's own mesh."""
        return Neighbours(self.coarse_index, self.coarse_valid)


def _returning(
    canonical: Float[Tensor, "p 3"],
    body: SmplxBody,
    identity: BodyIdentity,
    transforms: Float[Tensor, "j 4 4"],
    first: int,
) -> Float[Tensor, "p 3"]:
    """Canonical vertices, those of a garment where the rest pose takes them back to their rest.

    Blended transforms there and back are not inverse to each other: between legs that part in the
    canonical pose, cloth that follows both would come back 8 cm too high at a hem near the feet.

    Args:
        canonical: All vertices.
        body: That they are of, dressed.
        identity: Of the person.
        transforms: Canonical from rest, of each joint.
        first: Row of the garment's first vertex.
    """
    back = blend_bones(body.weights[first:], torch.linalg.inv(transforms)[:, :3])
    rest = body.shape(identity)[0][first:] - back[..., 3]
    return torch.cat((canonical[:first], torch.linalg.solve(back[..., :3], rest)))
