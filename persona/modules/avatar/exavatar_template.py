"""Constants of the body that ExAvatar uses, independent of the person."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from persona.modules.avatar.template import OPEN_MOUTH_RAD
from persona.modules.body.regions import body_regions
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import Neighbours, Subdivision, neighbours, vertex_normals
from persona.types import BodyPose

LEGS_APART = 1.0
"""Roll of the canonical pose's hips, radians."""
ARMS = (16, 17, 18, 19)
"""Shoulders and elbows in SMPL-X order."""
ARM_SLICE_M = 0.01
ARM_NEIGHBOURS = 50
CHUNK = 1024


class ExAvatarTemplate(nn.Module):
    """Constants of the subdivided canonical body; nothing here is trained or saved.

    Regions on the subdivided mesh: a new vertex belongs if one of its edge's ends does (mean > 0),
    one edge more than in PERSONA. SMPL-X's mouth is a hole that ExAvatar closes with faces of their
    own, its ``cavity``; here that is the region ``mouth_in``, which bodies with a modelled mouth
    have as well. Source: ExAvatar, arXiv:2407.21686.

    Args:
        body: body model.
        levels: mid-edge subdivisions; one Gaussian per vertex.
        network_level: subdivisions of the mesh that the geometry networks run on; the rest of
            ``levels`` carry their outputs on. None is all of them.
    """

    faces: Int[Tensor, "g 3"]
    hand: Bool[Tensor, "n"]
    face: Bool[Tensor, "n"]
    """The whole head."""
    face_expr: Bool[Tensor, "n"]
    cavity: Bool[Tensor, "n"]
    fixed: Bool[Tensor, "n"]
    """Hands and face_expr: pose blend shapes in place of learned offsets."""
    normals: Float[Tensor, "n 3"]
    """Normals of the mean person in the canonical pose."""
    arm_under: Int[Tensor, "m"]
    """Gaussians on the undersides of the arms."""
    arm_over: Int[Tensor, "m k"]
    """Per underside Gaussian those of the upper side that are near it ..."""
    arm_valid: Bool[Tensor, "m k"]
    """... where they are."""
    neighbour_index: Int[Tensor, "n k"]
    neighbour_valid: Bool[Tensor, "n k"]
    free: Int[Tensor, "m"]
    """Gaussians on neither the hands nor the head."""
    body_points: Float[Tensor, "b 3"]
    """Triplane coordinates of Gaussians off the head, metres; ``face_points`` of the head's."""
    body_index: Int[Tensor, "b"]
    face_points: Float[Tensor, "h 3"]
    face_index: Int[Tensor, "h"]

    def __init__(self, *, body: SmplxBody, levels: int, network_level: int | None = None) -> None:
        super().__init__()
        self.body = body
        self.subdivision = Subdivision(body.faces.cpu(), levels)
        level = levels if network_level is None else min(network_level, levels)
        coarse = Subdivision(body.faces.cpu(), level)
        self.carry = Subdivision(coarse.faces, levels - level, coarse.num_vertices)
        fine = neighbours(self.subdivision.faces, self.subdivision.num_vertices)
        self._constant("faces", self.subdivision.faces)
        self._constant("neighbour_index", fine.index)
        self._constant("neighbour_valid", fine.valid)
        self._name_regions()
        vertices = self.subdivision.features(body.canonical(body.zero_identity(), LEGS_APART)[0])
        self._constant("normals", vertex_normals(vertices, self.faces))
        self._name_arms(vertices)
        self._place_features()

    def _constant(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def _name_regions(self) -> None:
        found = body_regions(self.body)
        names = {"hand": "hand", "face": "face", "face_expr": "face_expr", "cavity": "mouth_in"}
        for name, region in names.items():
            inside = self.subdivision.features(getattr(found, region).float()) > 0
            self._constant(name, inside)
        self._constant("fixed", self.hand | self.face_expr)
        # Hands and head keep the weights of their place on the mesh.
        self._constant("free", (~(self.hand | self.face)).nonzero()[:, 0])

    def _name_arms(self, vertices: Float[Tensor, "n 3"]) -> None:
        """Pairs each underside Gaussian of an arm with near ones above it, in the T-pose's arms."""
        owner = self.subdivision.features(self.body.weights).argmax(1)
        arm = torch.isin(owner, torch.tensor(ARMS)) & ~self.hand
        over = (arm & (self.normals[:, 1] > 0)).nonzero()[:, 0]
        under = (arm & (self.normals[:, 1] <= 0)).nonzero()[:, 0]
        count = min(ARM_NEIGHBOURS, len(over))
        near = []
        for part in under.split(CHUNK):
            distance = torch.cdist(vertices[part], vertices[over])
            apart = (vertices[part, :1] - vertices[over, 0]).abs() >= ARM_SLICE_M
            near.append(distance.masked_fill(apart, torch.inf).topk(count, largest=False))
        self._constant("arm_under", under)
        self._constant("arm_over", over[torch.cat([n.indices for n in near])])
        self._constant("arm_valid", torch.cat([n.values for n in near]).isfinite())

    def _place_features(self) -> None:
        """Triplane coordinates: the open-mouthed mean person, metres; the lips lie apart there."""
        body = self.body
        pose = BodyPose.zero(body.num_expression)
        pose.jaw[0] = OPEN_MOUTH_RAD
        pose.body[0, 2], pose.body[1, 2] = LEGS_APART, -LEGS_APART
        points = self.subdivision.features(body(body.zero_identity(), pose, mean_hands=False)[0])
        for name, inside in (("body", ~self.face), ("face", self.face)):
            center = points.mean(0) if name == "body" else points[inside].mean(0)
            self._constant(f"{name}_points", points[inside] - center)
            self._constant(f"{name}_index", inside.nonzero()[:, 0])

    @property
    def num_gaussians(self) -> int:
        """One per vertex of the subdivided mesh."""
        return len(self.hand)

    @property
    def neighbours(self) -> Neighbours:
        """Neighbours on the subdivided mesh."""
        return Neighbours(self.neighbour_index, self.neighbour_valid)
