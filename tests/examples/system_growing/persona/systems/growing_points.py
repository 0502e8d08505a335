"""Gaussians on a body that grow where the image asks for more of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from persona.modules.avatar.base import Avatar, PosedPoints
from persona.modules.body.skinning import blend_skin
from persona.modules.body.smplx_body import SmplxBody
from persona.systems.method import Method
from persona.types import PLAIN_VIEW, BodyIdentity, Gaussians, Pose, View


class GrowingPoints(Avatar):
    """Each Gaussian hangs on a vertex of the body; several may hang on one."""

    per_gaussian = ("vertex", "offset", "log_scale", "opacity_logit", "rgb_logit")
    vertex: Int[Tensor, "n"]

    def __init__(self, body: SmplxBody, identity: BodyIdentity, every: int) -> None:
        super().__init__()
        self.body = body
        rest, joints = body.shape(identity)
        self.register_buffer("rest", rest, persistent=False)
        self.register_buffer("joints", joints, persistent=False)
        self.register_buffer("vertex", torch.arange(0, len(rest), every))
        count = len(self.vertex)
        self.offset = nn.Parameter(torch.zeros(count, 3))
        self.log_scale = nn.Parameter(torch.full((count, 3), 0.03).log())
        self.opacity_logit = nn.Parameter(torch.full((count,), 2.0))
        self.rgb_logit = nn.Parameter(torch.zeros(count, 3))

    def forward(self, pose: Pose, view: View = PLAIN_VIEW) -> PosedPoints:
        """In the camera frame of the pose."""
        bones = self.body.transforms_from_matrices(self.joints, pose.rotations)
        rest, weights = self.rest[self.vertex] + self.offset, self.body.weights[self.vertex]
        means = blend_skin(rest, weights, bones) + pose.trans
        turns = torch.eye(1, 4).to(means).expand(len(means), 4)
        shape = self.log_scale.exp(), turns, self.opacity_logit.sigmoid()
        return PosedPoints(Gaussians(means, *shape), self.rgb_logit.sigmoid())

    def split(
        self, rows: Int[Tensor, "k"], shift: Float[Tensor, "k 3"], shrink: Float[Tensor, "k"]
    ) -> dict[str, Tensor]:
        """Moved along the axes of their parents, which they otherwise resemble."""
        fresh = {name: getattr(self, name).detach()[rows] for name in self.per_gaussian}
        fresh["offset"] = fresh["offset"] + shift * fresh["log_scale"].exp()
        fresh["log_scale"] = fresh["log_scale"] - shrink.log()[:, None]
        return fresh


@dataclass(frozen=True, kw_only=True)
class GrowingPointsBuilder:
    """Settings: one of so many vertices has a Gaussian at first."""

    rates: Mapping[str, float]
    every: int = 8

    def build(self, body: SmplxBody, identity: BodyIdentity) -> GrowingPoints:
        """Grey."""
        return GrowingPoints(body, identity, self.every)


class GrowingPointsMethod(Method):
    """Has one asset, which is its result."""

    assets = ("points",)
