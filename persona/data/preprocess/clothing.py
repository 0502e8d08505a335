"""Gives the fitted naked body the girth of clothes and hair that the photograph's outline shows.

A photograph shows the girth only at the outline. A displacement along the normals is fitted so
that the projected body fills the mask, and is harmonic elsewhere: front and back take what the
sides on either hand need. It is stored where PERSONA keeps its per-vertex offset (``face_offset``),
with the joints held in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from persona.data.preprocess.cover import Cover
from persona.data.preprocess.fit import BodyFit
from persona.data.preprocess.fit_terms import CROP_SIDE, CropSpace, SilhouetteTerm, outline_vertices
from persona.modules.body.regions import BodyRegions
from persona.modules.body.rotation import matrix_from_axis_angle
from persona.modules.body.smplx_body import SmplxBody
from persona.modules.body.topology import neighbours, uniform_laplacian, vertex_normals
from persona.modules.detect import Detection
from persona.types import BodyIdentity, Camera

FOOT_JOINTS = (7, 8, 10, 11)
ARM_JOINTS, LEG_JOINTS = (16, 17, 18, 19), (1, 2, 4, 5)
MAX_ARM_M, MAX_LEG_M = 0.04, 0.06
"""Largest stand-off of sleeves and trouser legs: more is another limb or a thing held."""
MAX_SKIN_M = 0.005
"""Largest displacement of bare skin."""
MAX_INWARD_M = 0.01
MAX_LOOSE_INWARD_M = 0.12
"""The same for a skirt, whose girth is a guess."""
MAX_HAIR_M = 0.05
"""Largest height of hair on the head."""
_SOFT_STEPS = 25
MAX_LYING_M = 0.02
"""Largest height of hair that lies on trunk and arms."""
_CONTROLS, _NEAREST = 700, 8
_REFRESH = 10


class Photo(NamedTuple):
    """A naked fit to what was found in a photograph."""

    fit: BodyFit
    detection: Detection
    camera: Camera


class _Outline:
    """A photograph's silhouette, and the naked body in front of it."""

    def __init__(self, body: SmplxBody, photo: Photo):
        fit, detection, self.camera = photo
        self.posed, self.faces = body(fit.identity, fit.pose)[0], body.faces
        self.direction = vertex_normals(self.posed, body.faces)
        crop = CropSpace(detection.keypoints)
        self.silhouette = SilhouetteTerm(detection, crop, samples=1200)
        self.match: Int[Tensor, "c"] = torch.zeros(0, dtype=torch.long)


@dataclass(frozen=True)
class ClothingFit:
    """How far clothes may stand off, and the weights of the fit.

    Attributes:
        max_offset_m: Largest displacement of body and hair.
        max_foot_m: Largest displacement of the feet (shoes).
        iterations: Adam steps.
        inside: Weight of staying in the mask.
        outline: Weight of reaching the mask's outline.
        smooth: Weight of the difference between neighbouring controls.
        sigma: Robustness of the outline, fraction of the crop's side.
    """

    max_offset_m: float = 0.1
    max_foot_m: float = 0.02
    iterations: int = 250
    inside: float = 10.0
    outline: float = 1.0
    smooth: float = 0.1
    sigma: float = 0.05

    def __call__(
        self,
        body: SmplxBody,
        photos: Sequence[Photo],
        regions: BodyRegions,
        cover: Cover,
        advance: Callable[[int], None] = lambda steps: None,
    ) -> BodyFit:
        """The first photo's fit with the clothed identity (the same pose, seen in the same place).

        Args:
            body: Body model.
            photos: Naked fits of one shape; each shows the girth of what is at its outline, and the
                first one counts as much as all others.
            regions: Regions of the body.
            cover: What covers the vertices: bare skin stays where it is, a skirt may move inward.
            advance: Called with the number of finished steps.
        """
        fit = photos[0].fit
        rest, _ = body.shape(fit.identity)
        limit = self._limits(body, rest, regions, cover)
        inward = limit.minimum(torch.where(cover.skirt, MAX_LOOSE_INWARD_M, MAX_INWARD_M))
        # In the canonical pose, whose legs are apart, the halves of a skirt do not touch.
        field = _SmoothField(body.canonical(fit.identity)[0], limit > 0)
        outlines = [_Outline(body, photo) for photo in photos]
        control = torch.zeros(field.size, requires_grad=True)
        optimizer = torch.optim.Adam([control], lr=2e-3)
        for step in range(self.iterations):
            offset = field(control).maximum(-inward).minimum(limit)
            shares = [1.0] + [1 / max(1, len(outlines) - 1)] * (len(outlines) - 1)
            energy = torch.stack([
                share * self._energy(outline, offset, limit, step)
                for share, outline in zip(shares, outlines, strict=True)
            ]).sum() / min(2, len(outlines))  # fmt: skip
            # Roughness relative to a typical garment's stand-off of 5 cm.
            energy = energy + self.smooth * field.roughness(control / 0.05)
            optimizer.zero_grad()
            energy.backward()
            optimizer.step()
            advance(1)
        with torch.no_grad():
            offset = field(control).maximum(-inward).minimum(limit)
        return dress(body, fit, offset[:, None] * vertex_normals(rest, body.faces))

    def _energy(
        self, photo: _Outline, offset: Float[Tensor, "p"], limit: Float[Tensor, "p"], step: int
    ) -> Float[Tensor, ""]:
        """How far a photograph's outline is from that of the body with these displacements."""
        silhouette, camera = photo.silhouette, photo.camera
        vertices = photo.posed + offset[:, None] * photo.direction
        pixels = camera.project(vertices)
        if step % _REFRESH == 0:
            rim, normals = outline_vertices(vertices.detach(), photo.faces, camera)
            photo.match = silhouette.match(pixels, normals, rim)
            if step == 0:
                # Outline points next to bare skin do not constrain clothes.
                silhouette.contour_weight = (limit[photo.match] > 2 * MAX_SKIN_M).float()
        reached = silhouette.outline(pixels, photo.match, CROP_SIDE * self.sigma)
        return self.inside * silhouette.inside(pixels) + self.outline * reached

    def _limits(
        self,
        body: SmplxBody,
        rest: Float[Tensor, "p 3"],
        regions: BodyRegions,
        cover: Cover,
    ) -> Float[Tensor, "p"]:
        """Largest displacement: none on bare face and hands, little on feet and bare skin.

        It grows with the distance from face and hands, so that hair does not end in a step.
        """
        limit = torch.full((len(rest),), self.max_offset_m)
        limbs = (
            (FOOT_JOINTS, self.max_foot_m), (ARM_JOINTS, MAX_ARM_M), (LEG_JOINTS, MAX_LEG_M),
        )  # fmt: skip
        for joints, most in limbs:
            share = body.weights[:, list(joints)].sum(-1)
            limit = limit + share * (min(most, self.max_offset_m) - self.max_offset_m)
        # A skirt hangs on the legs and may stand off as the trunk's clothes do.
        limit = torch.where(cover.skirt, limit.clamp(min=self.max_offset_m), limit)
        limit[cover.bare] = limit[cover.bare].clamp(max=MAX_SKIN_M)
        limit[cover.lying] = limit[cover.lying].clamp(max=MAX_LYING_M)
        limit[regions.face] = limit[regions.face].clamp(max=MAX_HAIR_M)
        fixed = regions.hand | regions.eye | (regions.face_expr & cover.bare)
        distance, _ = cKDTree(rest[fixed].numpy()).query(rest.numpy())
        limit = limit.minimum(torch.from_numpy(distance).float())
        # Vertices that already stand out of the head, such as ears, do not move outwards.
        if cover.ears.any():
            distance, _ = cKDTree(rest[cover.ears].numpy()).query(rest.numpy())
            limit = limit.minimum(2 * torch.from_numpy(distance).float())
        # Avoid steps in hair: the limit fades out towards vertices that must not move.
        near, soft = neighbours(body.faces, len(rest)), limit
        for _ in range(_SOFT_STEPS):
            soft = soft - uniform_laplacian(soft[:, None], near)[:, 0]
        return torch.where(regions.face & ~fixed, soft, limit)


@torch.no_grad()
def dress(body: SmplxBody, fit: BodyFit, offset: Float[Tensor, "p 3"]) -> BodyFit:
    """Adds rest-pose offsets (metres) without moving any joint of the fitted pose."""
    identity = fit.identity
    shift = body.joint_regressor @ offset
    joint_offset = identity.joint_offset - shift
    joint_offset[0] = 0
    # The root cannot be offset: its regressed place moves by shift[0], and with it the pivot of the
    # root rotation.
    turn = matrix_from_axis_angle(fit.pose.root)
    trans = fit.pose.trans - (shift[0] - turn @ shift[0])
    return replace(
        fit,
        identity=replace(
            identity, face_offset=identity.face_offset + offset, joint_offset=joint_offset
        ),
        pose=replace(fit.pose, trans=trans),
    )


def dressed_as(body: SmplxBody, fit: BodyFit, identity: BodyIdentity) -> BodyFit:
    """The same person's fit to another photograph in clothes that were fitted to the first one.

    Args:
        body: Body model.
        fit: Naked, of the same shape.
        identity: Clothed.
    """
    clothed = dress(body, fit, identity.face_offset - fit.identity.face_offset)
    return replace(clothed, identity=identity)


class _SmoothField:
    """A scalar per vertex, interpolated from control vertices spread over the surface."""

    def __init__(self, rest: Float[Tensor, "p 3"], free: Bool[Tensor, "p"]):
        candidates = rest[free]
        controls = candidates[_farthest(candidates, _CONTROLS)]
        distance, index = cKDTree(controls.numpy()).query(rest.numpy(), _NEAREST)
        near = torch.from_numpy(distance).float()
        self.index: Int[Tensor, "p 8"] = torch.from_numpy(index)
        width = near[:, 3:4].clamp(min=1e-4)
        self.weights = F.normalize(torch.exp(-((near / width) ** 2)), p=1, dim=-1)
        _, self.links = cKDTree(controls.numpy()).query(controls.numpy(), 7)
        self.size = len(controls)

    def __call__(self, control: Float[Tensor, "k"]) -> Float[Tensor, "p"]:
        """Values at the vertices."""
        return (control[self.index] * self.weights).sum(-1)

    def roughness(self, control: Float[Tensor, "k"]) -> Float[Tensor, ""]:
        """Mean squared difference between neighbouring controls."""
        return (control[self.links[:, 1:]] - control[:, None]).square().mean()


def _farthest(points: Float[Tensor, "n 3"], count: int) -> Int[Tensor, "k"]:
    """Farthest-point sampling."""
    distance = torch.full((len(points),), torch.inf)
    chosen = [0]
    for _ in range(min(count, len(points)) - 1):
        distance = distance.minimum((points - points[chosen[-1]]).square().sum(-1))
        chosen.append(int(distance.argmax()))
    return torch.tensor(chosen)
