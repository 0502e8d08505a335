"""SplattingAvatar: Gaussians that lie on the triangles of a body and may walk over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from persona.errors import check_choice
from persona.modules.avatar.base import Avatar, PosedPoints
from persona.modules.avatar.gaussian_avatar import neighbour_log_scale
from persona.modules.avatar.rig import Rig
from persona.modules.body.rotation import quaternion_product
from persona.modules.body.shaped_body import ShapedBody
from persona.modules.body.surface_points import (
    SurfacePoints,
    area_ratios,
    closest_points,
    phong_positions,
    random_points,
    turn_vectors,
    vertex_turns,
)
from persona.modules.body.topology import vertex_fans, vertex_normals
from persona.modules.body.triangle_walk import Across, across_sides, walk
from persona.types import PLAIN_VIEW, BodyIdentity, Gaussians, Pose, View

UNIT_M = 0.25
"""The published code's unit of length: a quarter of a metre."""
AREA_FLOOR_M2 = 1e-4 * UNIT_M**2
STRETCHES = ("root", "log", "none")


class SplattingAvatar(Avatar):
    """Each Gaussian is a place on a triangle and a height above it.

    Its mean lies on the Phong surface, its rotation is the surface's turn times its own. Training
    moves the place within its triangle's plane; ``walk`` carries it on to the next triangle.

    Source: Shao et al. 2024, arXiv:2403.05087. The published code gives the place no gradient, so
    that nothing walks (its issue 43); here it has one, as the paper says.

    Args:
        body: Any body with faces.
        identity: The person, whose rest mesh is the canonical one.
        count: Gaussians at first, on faces drawn with equal probability.
        opacity: Theirs.
        stretch: What a triangle's area ratio r does to the scales s on it: ``root`` gives
            s * sqrt(r), ``log`` the published code's s ** r in its unit, ``none`` nothing.
        seed: Seed of the places.

    Raises:
        UserError: no such ``stretch``.
    """

    per_gaussian = (
        "face", "barycentric", "slide", "height", "log_scale", "quaternion", "opacity_logit",
        "rgb_logit",
    )  # fmt: skip
    face: Int[Tensor, "n"]
    barycentric: Float[Tensor, "n 3"]
    rest: Float[Tensor, "p 3"]
    joints: Float[Tensor, "j 3"]
    rest_normals: Float[Tensor, "p 3"]
    fans: Int[Tensor, "p k 2"]
    across_face: Int[Tensor, "f 3"]
    across_corner: Int[Tensor, "f 3 3"]

    def __init__(
        self,
        body: ShapedBody,
        identity: BodyIdentity,
        *,
        count: int = 10_000,
        opacity: float = 0.1,
        stretch: str = "root",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_choice("avatar.stretch", stretch, STRETCHES)
        self.body, self.stretch = body, stretch
        rest, joints = body.shape(identity)
        faces, across = body.faces, across_sides(body.faces)
        fans = vertex_fans(faces, len(rest))
        constants = {
            "rest": rest, "joints": joints, "rest_normals": vertex_normals(rest, faces),
            "fans": fans, "across_face": across.face, "across_corner": across.corner,
        }  # fmt: skip
        for name, values in constants.items():
            self.register_buffer(name, values, persistent=False)
        points = random_points(faces, count, torch.Generator().manual_seed(seed))
        means = points.blend(rest, faces)
        self.register_buffer("face", points.face)
        self.register_buffer("barycentric", points.barycentric)
        self.slide = nn.Parameter(torch.zeros(count, 2))
        self.height = nn.Parameter(torch.zeros(count, 1))
        self.log_scale = nn.Parameter(neighbour_log_scale(means).repeat(1, 3))
        self.quaternion = nn.Parameter(torch.eye(1, 4).repeat(count, 1))
        self.opacity_logit = nn.Parameter(torch.full((count,), opacity).logit())
        self.rgb_logit = nn.Parameter(torch.zeros(count, 3))
        self.steps = 0
        """Optimiser steps begun, by which losses choose their backgrounds."""

    def begin_step(self) -> None:
        """Counts."""
        self.steps += 1

    def get_extra_state(self) -> Int[Tensor, ""]:
        """The steps."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Int[Tensor, ""]) -> None:
        """From a checkpoint."""
        self.steps = int(state)

    @property
    def places(self) -> SurfacePoints:
        """Current place of each Gaussian, which may lie beside its triangle."""
        return SurfacePoints(self.face, self.barycentric).slid(self.slide)

    def forward(self, pose: Pose, view: View = PLAIN_VIEW) -> PosedPoints:
        """In the camera frame of the pose."""
        faces, places = self.body.faces, self.places
        posed, _ = self.body.deform(self.rest, self.joints, pose.rotations, pose.expression)
        normals = vertex_normals(posed, faces, self.fans)
        means = phong_positions(places, self.height, posed, normals, faces) + pose.trans
        turns = places.blend(vertex_turns(self.rest, posed, faces), faces)
        turns = F.normalize(quaternion_product(turns, self.quaternion), dim=-1)
        shape = self._scales(posed), turns, self.opacity_logit.sigmoid()
        return PosedPoints(Gaussians(means, *shape), self.rgb_logit.sigmoid())

    def _scales(self, posed: Float[Tensor, "p 3"]) -> Float[Tensor, "n 3"]:
        """Metres, scaled by the areas of the triangles."""
        if self.stretch == "none":
            return self.log_scale.exp()
        ratios = area_ratios(self.rest, posed, self.body.faces, AREA_FLOOR_M2)
        ratios = ratios.index_select(0, self.face)[:, None]
        if self.stretch == "root":
            return self.log_scale.exp() * ratios.sqrt()
        return UNIT_M * (self.log_scale.exp() / UNIT_M) ** ratios

    def rig(self, pose: Pose | None = None) -> Rig:
        """See ``Avatar``: in the rest pose; a pose's correctives are baked in."""
        faces, places, body = self.body.faces, self.places, self.body
        rest = self.rest if pose is None else self.rest + body.pose_blend(pose.rotations)
        normals = vertex_normals(rest, faces, self.fans)
        means = phong_positions(places, self.height, rest, normals, faces)
        turns = F.normalize(self.quaternion, dim=-1)
        unit = torch.eye(4).to(means).expand(len(self.joints), 4, 4)
        return Rig(
            points=Gaussians(means, self.log_scale.exp(), turns, self.opacity_logit.sigmoid()),
            rgb=self.rgb_logit.sigmoid(),
            weights=places.blend(body.weights, faces),
            expr_dirs=places.blend(body.expr_dirs, faces),
            joints=self.joints,
            rest_from_bind=unit,
        )

    # Places ----------------------------------------------------------------------------------

    @torch.no_grad()
    def walk(self) -> dict[str, Tensor]:
        """The same places on the triangles that they have come to, as ``set_rows`` takes them."""
        face, barycentric = walk(self._across, self.face, self.barycentric, self.slide)
        return {"face": face, "barycentric": barycentric, "slide": torch.zeros_like(self.slide)}

    @property
    def _across(self) -> Across:
        return Across(self.across_face, self.across_corner)

    @torch.no_grad()
    def split(
        self, rows: Int[Tensor, "k"], shift: Float[Tensor, "k 3"], shrink: Float[Tensor, "k"]
    ) -> dict[str, Tensor]:
        """Moved along their parents' axes on the rest mesh, and tied to the triangles there.

        They have their parents' height.
        """
        fresh = self.copies(rows)
        walked = {name: values[rows] for name, values in self.walk().items()}
        fresh |= walked
        fresh["log_scale"] = fresh["log_scale"] - shrink.log()[:, None]
        start = SurfacePoints(walked["face"], walked["barycentric"])
        mesh = self.rest / UNIT_M, self.rest_normals
        away = shift * self.log_scale.detach()[rows].exp()
        away = turn_vectors(F.normalize(fresh["quaternion"], dim=-1), away)
        height = fresh["height"] / UNIT_M
        targets = phong_positions(start, height, *mesh, self.body.faces) + away / UNIT_M
        found = closest_points(targets, start, *mesh, self._across, self.body.faces)
        moved = (shift != 0).any(1)
        fresh["face"] = torch.where(moved, found.face, start.face)
        fresh["barycentric"] = torch.where(moved[:, None], found.barycentric, start.barycentric)
        return fresh


@dataclass(frozen=True, kw_only=True)
class SplattingAvatarBuilder:
    """Settings, see ``SplattingAvatar``; ``rates`` are Adam's, by the names of parameters."""

    rates: Mapping[str, float]
    count: int = 10_000
    opacity: float = 0.1
    stretch: str = "root"
    seed: int = 0

    def build(self, body: ShapedBody, identity: BodyIdentity) -> SplattingAvatar:
        """Grey, on the skin."""
        return SplattingAvatar(
            body, identity, count=self.count, opacity=self.opacity, stretch=self.stretch,
            seed=self.seed,
        )  # fmt: skip
